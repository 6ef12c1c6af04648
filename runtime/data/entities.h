/* Character references of HTML5, named and numbered. Local; any thread. */
#ifndef CPS_DATA_ENTITIES_H
#define CPS_DATA_ENTITIES_H

#include <stddef.h>

/* Replaces every reference in text[0 .. length-1] once, names of the standard's older set also
 * without their semicolon; what is none stays. Bytes go to `out`, which holds 2*length of them and
 * must not overlap; returns their number. Numbers outside Unicode and surrogates become U+FFFD,
 * other forbidden ones nothing, 128-159 what Windows-1252 shows there. */
size_t cps_entities_replace(const char *text, size_t length, char *out);

#endif
