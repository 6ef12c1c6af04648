/* Scalars for TensorBoard: event files (TFRecord framing, masked CRC-32C, the Event message of
 * TensorFlow written by hand). A resumed run writes a further file in the same folder that begins
 * with a session start, which makes TensorBoard drop what lies at or after that step. Rank 0
 * writes. Local. */
#ifndef CPS_REPORT_TENSORBOARD_H
#define CPS_REPORT_TENSORBOARD_H

#include "base/status.h"

typedef struct cps_tensorboard cps_tensorboard;

/* Makes `folder` and a new event file in it. start_step: 0, or the first step of a resumed run. */
cps_status cps_tensorboard_open(const char *folder, int64_t start_step,
                                cps_tensorboard **board_out) CPS_MUST_CHECK;
void cps_tensorboard_close(cps_tensorboard *board); /* NULL-safe */
/* tag "train/loss". Each call is one write. NULL board: nothing. Value as float, may be NaN. */
cps_status cps_tensorboard_scalar(cps_tensorboard *board, const char *tag, int64_t step,
                                  double value) CPS_MUST_CHECK;
const char *cps_tensorboard_path(const cps_tensorboard *board); /* of the file */

/* CRC-32C (Castagnoli) of bytes, and TFRecord's mask of it. */
uint32_t cps_crc32c(const void *bytes, size_t length);
uint32_t cps_crc32c_masked(const void *bytes, size_t length);

#endif
