#include "shards/species.h"

#include "base/file.h"
#include "base/text.h"
#include "shards/taxon.h"

#include <stdlib.h>
#include <string.h>

/* Appends the words of a text, one blank before each but the very first; the new end. */
static char *append_words(char *start, char *to, const char *text) {
    for (text += strspn(text, " \t"); *text != '\0'; text += strspn(text, " \t")) {
        const size_t length = strcspn(text, " \t");
        if (to > start) {
            *to++ = ' ';
        }
        memcpy(to, text, length);
        to += length;
        text += length;
    }
    return to;
}

cps_status cps_species_key(const char *genus, const char *epithet, char **key_out) {
    const cps_taxon_fields fields = {
        .ranks = {[CPS_TAXON_GENUS] = genus, [CPS_TAXON_SPECIES] = epithet}};
    cps_taxon *taxon = NULL;
    CPS_TRY(cps_taxon_clean(&fields, &taxon));
    *key_out = NULL;
    if (taxon == NULL) {
        return CPS_OK;
    }
    const char *first = taxon->ranks[CPS_TAXON_GENUS];
    const char *second = taxon->ranks[CPS_TAXON_SPECIES];
    char *key = malloc(strlen(first) + strlen(second) + 2);
    if (key != NULL) {
        char *middle = append_words(key, key, first);
        char *end = append_words(key, middle, second);
        *end = '\0';
        if (middle == key || end == middle) {
            free(key);
        } else {
            *key_out = key;
        }
    }
    free(taxon);
    return key != NULL ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a name");
}

/* Cuts "Kingdom-Phylum-Class-Order-Family-Genus-epithet" in place: its genus and epithet. The
 * epithet may have hyphens and blanks, what is above it not. */
static bool cut_hyphens(char *text, const char **genus_out, const char **epithet_out) {
    char *at = text;
    char *genus = text;
    for (int32_t k = 0; k < CPS_TAXON_SPECIES; ++k) {
        const size_t length = strcspn(at, "- \t");
        if (at[length] != '-') {
            return false;
        }
        genus = at;
        at += length + 1;
    }
    at[-1] = '\0';
    *genus_out = genus;
    *epithet_out = at;
    return true;
}

static int32_t first_letter(const char *word) {
    size_t at = 0;
    return cps_utf8_next(word, strlen(word), &at);
}

static bool is_capital(const char *word) {
    char *lower = cps_utf8_lower(word);
    const bool capital = lower != NULL && first_letter(lower) != first_letter(word);
    free(lower);
    return capital;
}

static bool is_letters(const char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        const int32_t letter = cps_utf8_next(text, length, &at);
        if (!cps_utf8_is_letter(letter) && letter != '-') {
            return false;
        }
    }
    return true;
}

/* Finds genus and epithet in ranks joined by blanks, of which unknown ones may be left out:
 * capitals end with the genus, or it is the sixth of seven words in equal writing. Cuts in place.
 */
static bool cut_blanks(char *text, const char **genus_out, const char **epithet_out) {
    enum { MOST = 16 };
    char *words[MOST];
    int32_t count = 0;
    int32_t capitals = 0;
    bool plain = true; /* the first six are letters */
    for (char *at = text + strspn(text, " \t"); *at != '\0' && count < MOST;
         at += strspn(at, " \t")) {
        const size_t length = strcspn(at, " \t");
        plain = plain && (count >= CPS_TAXON_SPECIES || is_letters(at, length));
        capitals += count == capitals && is_capital(at);
        words[count++] = at;
        at += length;
    }
    int32_t genus = -1;
    if (capitals >= 3 && capitals < count) {
        genus = capitals - 1;
    } else if (count >= CPS_TAXON_RANKS && plain && (capitals == 0 || capitals == count)) {
        genus = CPS_TAXON_GENUS;
    }
    if (genus < 0) {
        return false;
    }
    words[genus + 1][-1] = '\0';
    *genus_out = words[genus];
    *epithet_out = words[genus + 1];
    return true;
}

cps_status cps_species_of(const char *text, char **species_out) {
    char *copy = cps_format("%s", text);
    const char *genus = "";
    const char *epithet = copy; /* a binomial: the cleaning finds the genus */
    if (!cut_hyphens(copy, &genus, &epithet)) {
        char *names = copy;
        if (strpbrk(copy, " \t") == NULL) { /* Pica_hudsonia, or iNaturalist's folder names */
            for (char *c = copy; *c != '\0'; ++c) {
                *c = *c == '_' ? ' ' : *c;
            }
            names += strspn(copy, "0123456789 ");
        }
        epithet = names;
        (void)cut_blanks(names, &genus, &epithet);
    }
    const cps_status status = cps_species_key(genus, epithet, species_out);
    free(copy);
    return status;
}
