/* Cleaning of a record: tags, case, unknown values, what stands behind a species' name, synonyms of
 * kingdoms, a genus inside the species. Rules and their order are those of the code that made
 * TreeOfLife-10M.
 *
 * A record is cleaned in one block of memory: the texts are copied in and only shrink from there,
 * but for lower case outside ASCII, for which there is room. Texts of plain letters, nearly all,
 * are read twice and nothing else happens to them: this runs once a sample. */
#include "shards/taxon.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* Text inside a block; text[length] is the terminator, or what will be it. */
typedef struct span {
    char *text;
    size_t length;
} span;

enum {
    LOWER_GROWTH = 3, /* bytes of lower case for one byte: malformed ones become U+FFFD */
    STRIP_BYTES = 64 << 20,
    NOWHERE = -1
};

static void end(span *s, size_t length) {
    s->length = length;
    s->text[length] = '\0';
}

/* ---- tags ------------------------------------------------------------------------------------ */

static const char *find_byte(const char *from, const char *limit, char byte) {
    return from >= limit ? NULL : memchr(from, byte, (size_t)(limit - from));
}

static const char *find_closing(const char *from, const char *limit) {
    const char *at = find_byte(from, limit, '<');
    while (at != NULL && (at + 1 == limit || at[1] != '/')) {
        at = find_byte(at + 1, limit, '<');
    }
    return at;
}

/* One pass of replacing each <...>inner</...> by its inner text; pairs lie within one line. The
 * nearest '>', "</" and '>' behind a '<' are the pair's: if one of them is missing, it is for every
 * later '<' of that line, too, so a pass takes linear time. */
static void strip_pass(span *s) {
    const char *at = s->text, *const limit = s->text + s->length;
    const char *line_end = at;
    char *written = s->text;
    const char *open;
    while ((open = find_byte(at, limit, '<')) != NULL) {
        if (line_end <= open) {
            line_end = find_byte(open, limit, '\n');
            line_end = line_end != NULL ? line_end : limit;
        }
        const char *inner = find_byte(open + 1, line_end, '>');
        const char *closing = inner != NULL ? find_closing(inner + 1, line_end) : NULL;
        const char *last = closing != NULL ? find_byte(closing + 2, line_end, '>') : NULL;
        const size_t before = (size_t)((last != NULL ? open : line_end) - at);
        memmove(written, at, before);
        written += before;
        at = line_end;
        if (last != NULL) {
            const size_t kept = (size_t)(closing - inner - 1);
            memmove(written, inner + 1, kept);
            written += kept;
            at = last + 1;
        }
    }
    memmove(written, at, (size_t)(limit - at));
    end(s, (size_t)(written - s->text) + (size_t)(limit - at));
}

static void strip_html(span *s) {
    size_t before = 0, spent = 0;
    while (s->length != before && spent < STRIP_BYTES &&
           find_byte(s->text, s->text + s->length, '<') != NULL) {
        before = s->length;
        spent += before;
        strip_pass(s);
    }
}

/* ---- white space ----------------------------------------------------------------------------- */

/* Code point at text[*at] without a call for the common case. */
static inline int32_t next_code_point(const char *text, size_t length, size_t *at) {
    const unsigned char byte = (unsigned char)text[*at];
    if (byte < 0x80) {
        *at += 1;
        return byte;
    }
    return cps_utf8_next(text, length, at);
}

static inline bool is_space(int32_t code_point) {
    return code_point > ' ' && code_point < 0x80 ? false : cps_utf8_is_space(code_point);
}

static void trim(span *s) {
    size_t first = s->length, after_last = 0;
    for (size_t at = 0; at < s->length;) {
        const size_t here = at;
        if (!is_space(next_code_point(s->text, s->length, &at))) {
            first = here < first ? here : first;
            after_last = at;
        }
    }
    s->text += first;
    end(s, after_last > first ? after_last - first : 0);
}

static size_t word_end(const span *s, size_t from) {
    size_t at = from;
    while (at < s->length) {
        const size_t here = at;
        if (is_space(next_code_point(s->text, s->length, &at))) {
            return here;
        }
    }
    return at;
}

/* Trimmed, and one blank between words. */
static void collapse(span *s) {
    size_t written = 0;
    for (size_t at = 0; at < s->length;) {
        const size_t here = at;
        if (is_space(next_code_point(s->text, s->length, &at))) {
            continue;
        }
        at = word_end(s, here);
        if (written > 0) {
            s->text[written++] = ' ';
        }
        memmove(s->text + written, s->text + here, at - here);
        written += at - here;
    }
    end(s, written);
}

/* ---- what stands behind a name ----------------------------------------------------------------
 */

/* A species is cut at each of these in turn: W one or more word characters, D a decimal digit, L
 * one of the 58 characters from 'A' to 'z', '?' a blank or nothing; the rest stands for itself. */
static const char *const cuts[] = {
    "(",               /* an authority in brackets */
    "ssp.",            /* what is below the species */
    "subsp.",          /* likewise */
    "var.",            /* likewise */
    "W, W & W",        /* authors */
    "W & W",           /* likewise */
    "W DDDD",          /* author and year */
    "W, DDDD",         /* likewise */
    "DDDD",     " L.", /* an author's initial */
    "<br?>",
};

static inline bool is_word(int32_t code_point) {
    if (code_point >= 0x80) {
        return cps_utf8_is_word(code_point);
    }
    const int32_t letter = code_point | ('a' - 'A');
    return (letter >= 'a' && letter <= 'z') || (code_point >= '0' && code_point <= '9') ||
           code_point == '_';
}

static size_t word_run_end(const char *text, size_t length, size_t from) {
    size_t at = from;
    while (at < length) {
        const size_t here = at;
        if (!is_word(next_code_point(text, length, &at))) {
            return here;
        }
    }
    return at;
}

/* Where what matches one sign of a shape at text[at] ends, `at` if nothing does. */
static size_t match_sign(const char *text, size_t length, size_t at, char sign) {
    const unsigned char byte = (unsigned char)text[at];
    size_t after = at;
    switch (sign) {
    case 'W':
        return word_run_end(text, length, at);
    case 'D':
        return cps_utf8_is_digit(next_code_point(text, length, &after)) ? after : at;
    case 'L':
        return byte >= 'A' && byte <= 'z' ? at + 1 : at;
    default:
        return (char)byte == sign ? at + 1 : at;
    }
}

/* Does the shape stand at text[at]? A run of word characters is taken whole: what follows W in a
 * shape is no word character, so a shorter run would not do. */
static bool stands_at(const char *text, size_t length, size_t at, const char *shape) {
    for (; *shape != '\0'; shape++) {
        if (*shape == '?') {
            at += at < length && text[at] == ' ';
            continue;
        }
        const size_t after = at < length ? match_sign(text, length, at, *shape) : at;
        if (after == at) {
            return false;
        }
        at = after;
    }
    return true;
}

/* First place of a shape, NOWHERE if none. A shape that begins with a word can only begin where a
 * run of word characters does. */
static int64_t find_shape(const char *text, size_t length, const char *shape) {
    for (size_t at = 0; at < length;) {
        if (stands_at(text, length, at, shape)) {
            return (int64_t)at;
        }
        const size_t here = at;
        if (*shape == 'W') {
            at = word_run_end(text, length, here);
        }
        if (at == here) {
            (void)next_code_point(text, length, &at);
        }
    }
    return NOWHERE;
}

/* Whether any cut is possible: each needs one of these bytes, digits beyond ASCII included. */
static bool may_be_cut(const span *s) {
    bool may = false;
    for (size_t i = 0; i < s->length; i++) {
        const unsigned char byte = (unsigned char)s->text[i];
        may |= byte >= 0x80 || (byte >= '0' && byte <= '9') || byte == '(' || byte == '.' ||
               byte == '&' || byte == '<';
    }
    return may;
}

static void cut_name(span *s) {
    trim(s);
    if (!may_be_cut(s)) {
        return;
    }
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        const int64_t at = find_shape(s->text, s->length, cuts[i]);
        if (at != NOWHERE) {
            end(s, (size_t)at);
            trim(s);
        }
    }
}

/* ---- texts by themselves ----------------------------------------------------------------------
 */

/* Moves what a span became to the front of the malloc'ed text that it began as. */
static char *settle(char *text, const span *s) {
    memmove(text, s->text, s->length + 1);
    return text;
}

cps_status cps_taxon_strip_html(const char *text, char **text_out) {
    char *copy = strdup(text);
    if (copy == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a text of a record");
    }
    span s = {copy, strlen(copy)};
    strip_html(&s);
    *text_out = settle(copy, &s);
    return CPS_OK;
}

cps_status cps_taxon_clean_name(const char *name, char **name_out) {
    char *copy = cps_utf8_lower(name);
    if (copy == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a name of a record");
    }
    span s = {copy, strlen(copy)};
    strip_html(&s);
    cut_name(&s);
    *name_out = settle(copy, &s);
    return CPS_OK;
}

/* ---- a record ---------------------------------------------------------------------------------
 */

static bool is(const span *s, const char *text) {
    return strcmp(s->text, text) == 0;
}

static void forget_if_unknown(span *s) {
    if (is(s, "(unidentified)") || is(s, "unknown") || is(s, "pleasehelp")) {
        end(s, 0);
    }
}

/* Copies a rank into s->text without tags and in lower case; its room is rank_room(text). */
static cps_status take_rank(const char *text, span *s) {
    unsigned char all = 0;
    bool tags = false;
    size_t length = 0;
    for (; text[length] != '\0'; length++) {
        const unsigned char byte = (unsigned char)text[length];
        all |= byte;
        tags |= byte == '<';
        s->text[length] = (char)(byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte);
    }
    end(s, length);
    if (all >= 0x80) { /* tags go first: what stands beside a sigma decides its lower case */
        memcpy(s->text, text, length);
        strip_html(s);
        char *lower = cps_utf8_lower(s->text);
        if (lower == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a rank of a record");
        }
        const size_t bytes = strlen(lower);
        memcpy(s->text, lower, bytes);
        end(s, bytes);
        free(lower);
    } else if (tags) {
        strip_html(s);
    }
    forget_if_unknown(s);
    return CPS_OK;
}

static size_t rank_room(const char *text) {
    size_t length = 0;
    unsigned char all = 0;
    for (; text[length] != '\0'; length++) {
        all |= (unsigned char)text[length];
    }
    return (all < 0x80 ? length : LOWER_GROWTH * length) + 1;
}

/* A species that begins with a word which is the genus, or which may be it as there is none; a
 * species said twice. */
static void split_species(span *genus, span *species) {
    if (species->length == 0) {
        return;
    }
    const size_t word = word_end(species, 0);
    span rest = {species->text + word, species->length - word};
    const bool is_genus = word == genus->length && memcmp(species->text, genus->text, word) == 0;
    if (rest.length > 0 && (is_genus || genus->length == 0)) {
        size_t blank = 0; /* the genus ends in its place */
        (void)next_code_point(rest.text, rest.length, &blank);
        rest = (span){rest.text + blank, rest.length - blank};
        collapse(&rest);
        if (genus->length == 0) {
            *genus = *species;
            end(genus, word);
        }
        *species = rest;
    }
    const size_t first = word_end(species, 0);
    span second = {species->text + first, species->length - first};
    trim(&second);
    if (second.length == first && memcmp(second.text, species->text, first) == 0) {
        end(species, first);
    }
}

static void normalise(span ranks[CPS_TAXON_RANKS]) {
    span *genus = &ranks[CPS_TAXON_GENUS], *species = &ranks[CPS_TAXON_SPECIES];
    cut_name(species);
    split_species(genus, species);
    /* Tags and unknown values once more, for those that can have changed. */
    strip_html(genus);
    strip_html(species);
    forget_if_unknown(genus);
    forget_if_unknown(species);
}

static const char *kingdom_name(const char *kingdom) {
    if (strcmp(kingdom, "metazoa") == 0) {
        return "animalia";
    }
    const bool plants =
        strcmp(kingdom, "archaeplastida") == 0 || strcmp(kingdom, "chloroplastida") == 0;
    return plants ? "plantae" : kingdom;
}

static const char *text_of(const char *field) {
    return field != NULL ? field : "";
}

uint32_t cps_taxon_known(const cps_taxon *taxon) {
    uint32_t known = 0;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        known |= (uint32_t)(taxon->ranks[rank][0] != '\0') << rank;
    }
    return known;
}

cps_status cps_taxon_clean(const cps_taxon_fields *fields, cps_taxon **taxon_out) {
    const char *common = text_of(fields->common);
    const size_t common_bytes = strlen(common) + 1;
    size_t bytes = sizeof(cps_taxon) + common_bytes, room[CPS_TAXON_RANKS];
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        room[rank] = rank_room(text_of(fields->ranks[rank]));
        bytes += room[rank];
    }
    cps_taxon *taxon = malloc(bytes);
    if (taxon == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the names of a record");
    }
    char *at = (char *)(taxon + 1);
    span ranks[CPS_TAXON_RANKS];
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        ranks[rank].text = at;
        at += room[rank];
        const cps_status status = take_rank(text_of(fields->ranks[rank]), &ranks[rank]);
        if (status != CPS_OK) {
            free(taxon);
            return status;
        }
    }
    normalise(ranks);
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        taxon->ranks[rank] = ranks[rank].text;
    }
    taxon->ranks[0] = kingdom_name(taxon->ranks[0]);
    taxon->common = memcpy(at, common, common_bytes);
    if (cps_taxon_known(taxon) == 0) {
        free(taxon);
        taxon = NULL;
    }
    *taxon_out = taxon;
    return CPS_OK;
}
