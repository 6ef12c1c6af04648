/* Which process a run belongs to: runs/<name>/owner.json. A requeued job may start while ranks of
 * the old one still live on a node that was lost. The newest start owns the run; the one before
 * finds another token in the file, writes nothing more and leaves. On one host nothing is taken
 * from a process that lives: a second start by mistake is refused. Local; rank 0. */
#ifndef CPS_TRAIN_OWNER_H
#define CPS_TRAIN_OWNER_H

#include "base/status.h"

typedef struct cps_owner cps_owner;

/* UNAVAILABLE when a process of this host trains the run in `folder`; waits a few seconds for one
 * that is ending. */
cps_status cps_owner_check(const char *folder, const char *run) CPS_MUST_CHECK;
/* Takes the run; what owned it before loses it. */
cps_status cps_owner_claim(const char *folder, const char *run,
                           cps_owner **owner_out) CPS_MUST_CHECK;
/* ENDED when another process took the run, or somebody removed its folder. A file that cannot be
 * read at the moment proves nothing. OK for NULL. */
cps_status cps_owner_holds(const cps_owner *owner) CPS_MUST_CHECK;
void cps_owner_forget(cps_owner *owner); /* frees; the file stays; NULL-safe */

#endif
