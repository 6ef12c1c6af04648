#include "report/provenance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

enum { MAX_FILE_BYTES = 1 << 26 };

const char *cps_cpu_model(char buffer[128]) {
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[512];
    snprintf(buffer, 128, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(buffer, 128, "%.127s", colon + (colon[1] == ' ' ? 2 : 1));
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return buffer;
}

static void add_if_known(cps_json *object, const char *key, const char *value) {
    if (value != NULL) {
        cps_json_add_string(object, key, value);
    }
}

static void add_time(cps_json *session) {
    const time_t now = time(NULL);
    struct tm parts;
    char text[32] = "";
    if (gmtime_r(&now, &parts) != NULL) {
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    cps_json_add_string(session, "started", text);
}

static void add_slurm(cps_json *session) {
    static const char *const names[] = {
        "SLURM_JOB_ID",       "SLURM_JOB_NODELIST",  "SLURM_JOB_NUM_NODES", "SLURM_JOB_PARTITION",
        "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", NULL};
    if (getenv(names[0]) == NULL) {
        return;
    }
    cps_json *slurm = cps_json_add_object(session, "slurm");
    for (int i = 0; names[i] != NULL; i++) {
        add_if_known(slurm, names[i], getenv(names[i]));
    }
}

static void add_machine(cps_json *session, const cps_provenance *provenance) {
    char cpu[128], host[256] = "unknown";
    if (gethostname(host, sizeof host - 1) != 0) {
        snprintf(host, sizeof host, "unknown");
    }
    cps_json_add_string(session, "hosts", provenance->hosts != NULL ? provenance->hosts : host);
    cps_json_add_string(session, "cpu", cps_cpu_model(cpu));
    add_if_known(session, "blas_core", provenance->blas_core);
    add_if_known(session, "precision", provenance->precision);
    cps_json_add_number(session, "ranks", provenance->ranks);
    cps_json_add_number(session, "threads", provenance->threads);
}

static void add_facts(cps_json *session, const char *key, const cps_provenance_fact *facts,
                      int64_t count) {
    if (count > 0) {
        cps_json *object = cps_json_add_object(session, key);
        for (int64_t i = 0; i < count; i++) {
            add_if_known(object, facts[i].key, facts[i].value);
        }
    }
}

static void add_session(cps_json *sessions, const cps_provenance *provenance) {
    cps_json *session = cps_json_add_object(sessions, NULL);
    add_time(session);
    cps_json_add_number(session, "start_step", (double)provenance->start_step);
    cps_json *versions = cps_json_add_object(session, "versions");
    add_if_known(versions, "copse", provenance->copse_version);
    add_if_known(versions, "mpi", provenance->mpi_version);
    add_if_known(versions, "hdf5", provenance->hdf5_version);
    add_if_known(versions, "blas", provenance->blas_version);
    cps_json_add_number(versions, "real_bytes", (double)sizeof(cps_real));
    add_machine(session, provenance);
    cps_json *command = cps_json_add_array(session, "command");
    for (int i = 0; i < provenance->argc; i++) {
        cps_json_add_string(command, NULL, provenance->argv[i]);
    }
    add_slurm(session);
    add_facts(session, "digests", provenance->digests, provenance->digest_count);
    add_facts(session, "facts", provenance->facts, provenance->fact_count);
}

cps_status cps_provenance_write(const char *path, const cps_provenance *provenance) {
    cps_json *old = NULL;
    if (cps_file_exists(path)) {
        CPS_TRY(cps_fail_context(cps_json_read_file(path, MAX_FILE_BYTES, &old),
                                 "provenance of the earlier sessions (move the file aside)"));
    }
    cps_json *root = cps_json_new_object();
    cps_json *sessions = cps_json_add_array(root, "sessions");
    for (const cps_json *at = cps_json_first(cps_json_get(old, "sessions")); at != NULL;
         at = cps_json_next(at)) {
        cps_json_add_copy(sessions, NULL, at);
    }
    cps_json_destroy(old);
    add_session(sessions, provenance);
    for (const cps_json *at = cps_json_first(provenance->run); at != NULL; at = cps_json_next(at)) {
        cps_json_add_copy(root, cps_json_key(at), at);
    }
    char *text = cps_json_print(root, true, false);
    char *file = cps_format("%s\n", text);
    cps_json_destroy(root);
    free(text);
    const cps_status status = cps_file_write_atomic(path, file, strlen(file));
    free(file);
    return status;
}
