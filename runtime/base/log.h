/* Messages for people, on stderr, one line each: rank 0 speaks, others only when asked. Modules
 * below train/ return numbers and failures instead of printing. */
#ifndef CPS_BASE_LOG_H
#define CPS_BASE_LOG_H

#include "base/types.h"

typedef enum cps_log_level {
    CPS_LOG_ERROR,
    CPS_LOG_WARN,
    CPS_LOG_INFO,
    CPS_LOG_DEBUG
} cps_log_level;

/* every_rank: also ranks above 0 speak, with "[rank r] " in front. A live progress line is cleared
 * before a message: see cps_log_live. */
void cps_log_setup(cps_log_level level, int rank, bool every_rank);
void cps_log(cps_log_level level, const char *format, ...) CPS_PRINTF(2, 3);
/* As cps_log, each text once a process: the first 256 different ones are remembered by hash, later
 * ones are shown. */
void cps_log_once(cps_log_level level, const char *text);
/* Shows `line` as the live last line of the terminal (rewritten in place); "" clears it. Rank 0 and
 * terminals only. */
void cps_log_live(const char *line);
bool cps_log_is_terminal(void);
/* One line on stderr from any rank and thread, whatever the set-up, without locks: last words
 * before an abort. */
void cps_log_last_words(const char *text);

#endif
