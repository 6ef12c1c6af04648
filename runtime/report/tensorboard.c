/* A record of an event file: length (8 bytes), masked CRC of it, the message, masked CRC of that;
 * all little-endian. Messages are protocol buffers of a few fields:
 *   Event      1 wall_time double, 2 step varint, 3 file_version string, 5 summary, 7 session_log
 *   Summary    1 value, repeated;  Value: 1 tag string, 2 simple_value float
 *   SessionLog 1 status varint, 1 = start */
#include "report/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

enum { MAX_TAG = 400, MAX_MESSAGE = MAX_TAG + 100 };

struct cps_tensorboard {
    char *path;
    int file;
};

/* A message being put together. */
typedef struct proto {
    uint8_t bytes[MAX_MESSAGE];
    size_t length;
} proto;

uint32_t cps_crc32c(const void *bytes, size_t length) {
    const uint8_t *at = bytes;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++) { /* lines are short: no table */
            crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

uint32_t cps_crc32c_masked(const void *bytes, size_t length) {
    const uint32_t crc = cps_crc32c(bytes, length);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static void put_bytes(proto *message, const void *bytes, size_t length) {
    CPS_BUG_IF(length > sizeof message->bytes - message->length);
    memcpy(message->bytes + message->length, bytes, length);
    message->length += length;
}

static void put_little(proto *message, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        const uint8_t byte = (uint8_t)(value >> (8 * i));
        put_bytes(message, &byte, 1);
    }
}

static void put_varint(proto *message, uint64_t value) {
    while (value >= 0x80) {
        put_little(message, (value & 0x7f) | 0x80, 1);
        value >>= 7;
    }
    put_little(message, value, 1);
}

enum { WIRE_VARINT = 0, WIRE_DOUBLE = 1, WIRE_BYTES = 2, WIRE_FLOAT = 5 };

static void put_key(proto *message, int field, int wire) {
    put_varint(message, (uint64_t)(field << 3 | wire));
}

static void put_field(proto *message, int field, const void *bytes, size_t length) {
    put_key(message, field, WIRE_BYTES);
    put_varint(message, length);
    put_bytes(message, bytes, length);
}

static proto begin_event(int64_t step) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    proto event = {.length = 0};
    put_key(&event, 1, WIRE_DOUBLE);
    put_little(&event, bits, 8);
    put_key(&event, 2, WIRE_VARINT);
    put_varint(&event, (uint64_t)step);
    return event;
}

static cps_status write_record(cps_tensorboard *board, const proto *event) {
    proto length = {.length = 0}, record = {.length = 0};
    put_little(&length, event->length, 8);
    put_bytes(&record, length.bytes, 8);
    put_little(&record, cps_crc32c_masked(length.bytes, 8), 4);
    put_bytes(&record, event->bytes, event->length);
    put_little(&record, cps_crc32c_masked(event->bytes, event->length), 4);
    for (size_t done = 0; done < record.length;) {
        const ssize_t got = write(board->file, record.bytes + done, record.length - done);
        if (got > 0) {
            done += (size_t)got;
        } else if (errno != EINTR) {
            return cps_fail(CPS_ERR_IO, "cannot write '%s': %s", board->path, strerror(errno));
        }
    }
    return CPS_OK;
}

/* What a reader expects first, and after a resume from which step on older files are void. */
static cps_status write_opening(cps_tensorboard *board, int64_t start_step) {
    static const char version[] = "brain.Event:2";
    proto event = begin_event(0);
    put_field(&event, 3, version, sizeof version - 1);
    CPS_TRY(write_record(board, &event));
    if (start_step <= 0) {
        return CPS_OK;
    }
    proto session = {.length = 0};
    put_key(&session, 1, WIRE_VARINT);
    put_varint(&session, 1);
    event = begin_event(start_step);
    put_field(&event, 7, session.bytes, session.length);
    return write_record(board, &event);
}

cps_status cps_tensorboard_open(const char *folder, int64_t start_step,
                                cps_tensorboard **board_out) {
    char host[128] = "host";
    CPS_TRY(cps_dir_create(folder));
    if (gethostname(host, sizeof host - 1) != 0) {
        strcpy(host, "host");
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    cps_tensorboard *board = calloc(1, sizeof *board);
    if (board == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    /* Readers take files in order of name: seconds first, nanoseconds tell two of a second apart.
     */
    board->path = cps_format("%s/events.out.tfevents.%010lld.%s.%09ld.%ld", folder,
                             (long long)now.tv_sec, host, now.tv_nsec, (long)getpid());
    board->file = open(board->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    cps_status status = CPS_OK;
    if (board->file < 0) {
        status = cps_fail(CPS_ERR_IO, "cannot create '%s': %s", board->path, strerror(errno));
    } else {
        status = write_opening(board, start_step);
    }
    if (status != CPS_OK) {
        cps_tensorboard_close(board);
        return status;
    }
    *board_out = board;
    return CPS_OK;
}

void cps_tensorboard_close(cps_tensorboard *board) {
    if (board != NULL) {
        if (board->file >= 0) {
            close(board->file);
        }
        free(board->path);
        free(board);
    }
}

cps_status cps_tensorboard_scalar(cps_tensorboard *board, const char *tag, int64_t step,
                                  double value) {
    if (board == NULL) {
        return CPS_OK;
    }
    const float simple = (float)value;
    uint32_t bits;
    memcpy(&bits, &simple, sizeof bits);
    proto item = {.length = 0}, summary = {.length = 0};
    put_field(&item, 1, tag, strnlen(tag, MAX_TAG));
    put_key(&item, 2, WIRE_FLOAT);
    put_little(&item, bits, 4);
    put_field(&summary, 1, item.bytes, item.length);
    proto event = begin_event(step);
    put_field(&event, 5, summary.bytes, summary.length);
    return write_record(board, &event);
}

const char *cps_tensorboard_path(const cps_tensorboard *board) {
    return board->path;
}
