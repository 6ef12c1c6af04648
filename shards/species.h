/* Species by name: what lists and records call them, as one cleaned text "genus epithet" in lower
 * case, one blank between words. Ranks above the genus have no part in it. Local; safe on any
 * thread. */
#ifndef CPS_SHARDS_SPECIES_H
#define CPS_SHARDS_SPECIES_H

#include "base/status.h"

/* "pica hudsonia" of genus and epithet as a record has them ("", NULL: none; the epithet may repeat
 * the genus), malloc'ed; NULL: one is unknown. */
cps_status cps_species_key(const char *genus, const char *epithet, char **key_out) CPS_MUST_CHECK;
/* That of a text: "Genus species", also with an author or '_' for the blank; the ranks from the
 * kingdom on joined by '-' or, unknown ones empty or left out, by blanks; a class folder of
 * iNaturalist 2021. NULL: it names no species. */
cps_status cps_species_of(const char *text, char **key_out) CPS_MUST_CHECK;

#endif
