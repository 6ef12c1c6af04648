/* The list of keywords, and which of them a caption holds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sclip.h"

enum { LOOKED_AT = 10000, COMPARISONS = 20000000 }; /* records; a second or two at most */

bool sclip_matches(const char *caption, const char *keyword) {
    const size_t length = strlen(keyword);
    for (const char *at = caption; length > 0 && (at = strstr(at, keyword)) != NULL; at++) {
        if ((at == caption || at[-1] == ' ') && (at[length] == '\0' || at[length] == ' ')) {
            return true;
        }
    }
    return false;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Equal keywords are kept, as in the published lists; whoever wrote the list may not know. */
static cps_status warn_of_doubles(cps_setup *setup, const sclip *self) {
    const char **sorted = cps_setup_alloc(setup, (size_t)self->keyword_count * sizeof *sorted);
    if (sorted == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    memcpy(sorted, self->keywords, (size_t)self->keyword_count * sizeof *sorted);
    qsort(sorted, (size_t)self->keyword_count, sizeof *sorted, by_text);
    int64_t doubles = 0;
    const char *first = NULL;
    for (int64_t k = 1; k < self->keyword_count; k++) {
        if (strcmp(sorted[k], sorted[k - 1]) == 0) {
            doubles++;
            first = first == NULL ? sorted[k] : first;
        }
    }
    if (doubles > 0) {
        char text[512];
        snprintf(
            text, sizeof text,
            "sclip: %lld of %lld keywords repeat an earlier one (such as '%.100s'): each is kept "
            "and is a negative of its twin; remove them unless that is wanted",
            (long long)doubles, (long long)self->keyword_count, first);
        cps_warn_once(setup, text);
    }
    return CPS_OK;
}

/* A list that no caption of the set holds teaches nothing: said before training where a look at the
 * first records settles it. Reports of `keyword_share` say the rest. */
static void warn_of_strangers(cps_setup *setup, const sclip *self, const char *stream) {
    int64_t captions = 0, index = 0;
    const char *caption = NULL;
    const int64_t records = cps_setup_stream_records(setup, stream);
    for (; index < LOOKED_AT && index < records && captions * self->keyword_count < COMPARISONS;
         index++) {
        for (int64_t c = 0; (caption = cps_setup_caption(setup, stream, index, c)) != NULL; c++) {
            captions++;
            for (int64_t k = 0; k < self->keyword_count; k++) {
                if (sclip_matches(caption, self->keywords[k])) {
                    return;
                }
            }
        }
    }
    if (captions == 0) {
        return; /* the stream says so itself */
    }
    char text[512];
    snprintf(
        text, sizeof text,
        "sclip: none of the %lld keywords (such as '%.60s') stands in any of the %lld captions "
        "of the first %lld records of '%s': matching is byte for byte between blanks; look at "
        "upper case, punctuation and plurals",
        (long long)self->keyword_count, self->keywords[0], (long long)captions, (long long)index,
        stream);
    cps_warn_once(setup, text);
}

static cps_status take_classes(cps_setup *setup, sclip *self, const char *stream) {
    cps_classes classes = {0};
    const cps_status status = cps_setup_classes(setup, stream, "label", &classes);
    if (status != CPS_OK) {
        return status;
    }
    for (int64_t k = 0; k < classes.count; k++) {
        if (classes.names[k][0] == '\0') {
            return cps_error(setup, CPS_ERR_DATA,
                             "keywords_from = \"classes\": a class of stream '%s' has an empty "
                             "name; pack the set with names, or give keywords in a file",
                             stream);
        }
    }
    self->keyword_count = classes.count;
    self->keywords = classes.names;
    return CPS_OK;
}

cps_status sclip_take_keywords(cps_setup *setup, sclip *self, const char *stream) {
    const sclip_options *options = self->options;
    if (!options->keyword_term) {
        return CPS_OK;
    }
    if (options->keywords_from == SCLIP_FROM_CLASSES) {
        if (options->keywords.count > 0) {
            return cps_error(setup, CPS_ERR_USAGE,
                             "both keywords (%lld of them) and keywords_from = \"classes\" are "
                             "given: leave one of them out",
                             (long long)options->keywords.count);
        }
        const cps_status status = take_classes(setup, self, stream);
        if (status != CPS_OK) {
            return status;
        }
    } else if (options->keywords.count == 0) {
        cps_warn_once(setup, "sclip: neither keywords nor keywords_from is given: the loss goes "
                             "without its keyword term (keyword_term = false says so)");
        return CPS_OK;
    } else {
        self->keyword_count = options->keywords.count;
        self->keywords = options->keywords.lines;
    }
    warn_of_strangers(setup, self, stream);
    return warn_of_doubles(setup, self);
}
