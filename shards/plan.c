#include "shards/plan.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/options.h"
#include "base/text.h"
#include "shards/layout.h"

#include <stdlib.h>
#include <string.h>

/* Room for `extra` more elements; the address of the first of them. */
static void *extend(cps_plan_array *array, size_t element, int64_t extra) {
    if (extra > array->room - array->count) {
        const int64_t room = cps_max_i64(2 * array->room, array->count + extra + 64);
        size_t bytes = 0;
        void *data =
            cps_mul_size((size_t)room, element, &bytes) ? realloc(array->data, bytes) : NULL;
        if (data == NULL) {
            return NULL;
        }
        array->data = data;
        array->room = room;
    }
    char *first = (char *)array->data + (size_t)array->count * element;
    array->count += extra;
    return first;
}

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "no memory for the list of what is to be packed: pack it in "
                    "several calls");
}

cps_status cps_plan_intern(cps_plan *plan, const char *text, int64_t *at_out) {
    const int64_t at = plan->pool.count;
    const size_t bytes = strlen(text) + 1;
    char *to = extend(&plan->pool, 1, (int64_t)bytes);
    if (to == NULL) {
        return fail_memory();
    }
    memcpy(to, text, bytes);
    *at_out = at;
    return CPS_OK;
}

const char *cps_plan_string(const cps_plan *plan, int64_t at) {
    return (const char *)plan->pool.data + at;
}

cps_plan_record *cps_plan_record_at(const cps_plan *plan, int64_t record) {
    return (cps_plan_record *)plan->records.data + record;
}

const cps_plan_text *cps_plan_text_at(const cps_plan *plan, int64_t text) {
    return (const cps_plan_text *)plan->texts.data + text;
}

const char *cps_plan_first_text(const cps_plan *plan, int64_t record, int32_t field) {
    for (int64_t i = cps_plan_record_at(plan, record)->first_text; i >= 0;
         i = cps_plan_text_at(plan, i)->next) {
        if (cps_plan_text_at(plan, i)->field == field) {
            return cps_plan_string(plan, cps_plan_text_at(plan, i)->text);
        }
    }
    return NULL;
}

const char *cps_plan_field_name(const cps_plan *plan, int64_t field) {
    return cps_plan_string(plan, ((const int64_t *)plan->fields.data)[field]);
}

const char *cps_plan_class_name(const cps_plan *plan, int64_t label) {
    return cps_plan_string(plan, ((const int64_t *)plan->classes.data)[label]);
}

static cps_status add_name(cps_plan *plan, cps_plan_array *names, const char *name) {
    int64_t at = 0;
    CPS_TRY(cps_plan_intern(plan, name, &at));
    int64_t *entry = extend(names, sizeof *entry, 1);
    if (entry == NULL) {
        return fail_memory();
    }
    *entry = at;
    return CPS_OK;
}

cps_status cps_plan_create(cps_plan *plan_out) {
    cps_plan plan = {0};
    cps_status status = add_name(&plan, &plan.fields, "file");
    if (status == CPS_OK) {
        status = add_name(&plan, &plan.fields, "caption");
    }
    if (status != CPS_OK) {
        cps_plan_free(&plan);
        return status;
    }
    *plan_out = plan;
    return CPS_OK;
}

void cps_plan_free(cps_plan *plan) {
    free(plan->pool.data);
    free(plan->records.data);
    free(plan->texts.data);
    free(plan->fields.data);
    free(plan->classes.data);
    *plan = (cps_plan){0};
}

cps_status cps_plan_add_record(cps_plan *plan, int64_t folder, const char *file,
                               int64_t *record_out) {
    int64_t at = 0;
    CPS_TRY(cps_plan_intern(plan, file, &at));
    cps_plan_record *record = extend(&plan->records, sizeof *record, 1);
    if (record == NULL) {
        return fail_memory();
    }
    *record = (cps_plan_record){.folder = folder,
                                .file = at,
                                .bytes = -1,
                                .first_text = -1,
                                .last_text = -1,
                                .label_name = -1,
                                .label = -1};
    *record_out = plan->records.count - 1;
    return cps_plan_add_text(plan, *record_out, CPS_PLAN_FILE, file);
}

cps_status cps_plan_add_field(cps_plan *plan, const char *name, int32_t *field_out) {
    const int32_t known = cps_plan_field(plan, name);
    if (known < 0) {
        CPS_TRY(add_name(plan, &plan->fields, name));
    }
    *field_out = known < 0 ? (int32_t)plan->fields.count - 1 : known;
    return CPS_OK;
}

int32_t cps_plan_field(const cps_plan *plan, const char *name) {
    for (int64_t i = 0; i < plan->fields.count; ++i) {
        if (strcmp(cps_plan_field_name(plan, i), name) == 0) {
            return (int32_t)i;
        }
    }
    return -1;
}

static bool is_blank(const char *text) {
    return text[strspn(text, " \t\r\n\v\f")] == '\0';
}

static bool has_text(const cps_plan *plan, const cps_plan_record *record, int32_t field,
                     const char *text) {
    for (int64_t i = record->first_text; i >= 0; i = cps_plan_text_at(plan, i)->next) {
        const cps_plan_text *known = cps_plan_text_at(plan, i);
        if (known->field == field && strcmp(cps_plan_string(plan, known->text), text) == 0) {
            return true;
        }
    }
    return false;
}

/* Appends the text at `at` of the pool. */
static cps_status link_text(cps_plan *plan, cps_plan_record *record, int32_t field, int64_t at) {
    cps_plan_text *entry = extend(&plan->texts, sizeof *entry, 1);
    if (entry == NULL) {
        return fail_memory();
    }
    *entry = (cps_plan_text){.text = at, .next = -1, .field = field};
    const int64_t number = plan->texts.count - 1;
    if (record->last_text < 0) {
        record->first_text = number;
    } else {
        ((cps_plan_text *)plan->texts.data)[record->last_text].next = number;
    }
    record->last_text = number;
    record->text_count += 1;
    record->caption_count += field == CPS_PLAN_CAPTION;
    return CPS_OK;
}

cps_status cps_plan_add_text(cps_plan *plan, int64_t record_number, int32_t field,
                             const char *text) {
    cps_plan_record *record = cps_plan_record_at(plan, record_number);
    if (is_blank(text) || (field != CPS_PLAN_CAPTION && has_text(plan, record, field, text))) {
        return CPS_OK;
    }
    int64_t at = 0;
    CPS_TRY(cps_plan_intern(plan, text, &at));
    return link_text(plan, record, field, at);
}

cps_status cps_plan_link_text(cps_plan *plan, int64_t record, int32_t field, int64_t at) {
    return link_text(plan, cps_plan_record_at(plan, record), field, at);
}

cps_status cps_plan_set_text(cps_plan *plan, int64_t record_number, int32_t field, int64_t at) {
    cps_plan_record *record = cps_plan_record_at(plan, record_number);
    for (int64_t i = record->first_text; i >= 0; i = cps_plan_text_at(plan, i)->next) {
        if (cps_plan_text_at(plan, i)->field == field) {
            ((cps_plan_text *)plan->texts.data)[i].text = at;
            return CPS_OK;
        }
    }
    return link_text(plan, record, field, at);
}

/* ---- finishing
 * ----------------------------------------------------------------------------------------------------
 */

/* Texts first .. first + count - 1 follow one another. */
static void link_run(cps_plan_text *texts, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        texts[first + i].next = i + 1 < count ? first + i + 1 : -1;
    }
}

static cps_status flatten_texts(cps_plan *plan) {
    const int64_t count = plan->texts.count;
    cps_plan_text *flat = malloc(((size_t)count + 1) * sizeof *flat);
    if (flat == NULL) {
        return fail_memory();
    }
    int64_t to = 0;
    for (int64_t r = 0; r < plan->records.count; ++r) {
        cps_plan_record *record = cps_plan_record_at(plan, r);
        const int64_t first = to;
        for (int64_t i = record->first_text; i >= 0; i = cps_plan_text_at(plan, i)->next) {
            flat[to] = *cps_plan_text_at(plan, i);
            to += 1;
        }
        record->first_text = record->text_count > 0 ? first : -1;
        link_run(flat, first, record->text_count);
    }
    free(plan->texts.data);
    plan->texts = (cps_plan_array){.data = flat, .count = count, .room = count + 1};
    return CPS_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct labels of the records that stay, sorted. Pointers into the pool: nothing may be
 * interned while they are used. */
static cps_status distinct_labels(const cps_plan *plan, const char ***names_out,
                                  int64_t *count_out) {
    const char **names = malloc(((size_t)plan->records.count + 1) * sizeof *names);
    if (names == NULL) {
        return fail_memory();
    }
    int64_t all = 0;
    for (int64_t r = 0; r < plan->records.count; ++r) {
        const int64_t at = cps_plan_record_at(plan, r)->label_name;
        if (at >= 0 && cps_plan_record_at(plan, r)->left_out == CPS_LEFT_NOT) {
            names[all++] = cps_plan_string(plan, at);
        }
    }
    qsort(names, (size_t)all, sizeof *names, by_text);
    int64_t count = 0;
    for (int64_t i = 0; i < all; ++i) {
        if (count == 0 || strcmp(names[count - 1], names[i]) != 0) {
            names[count++] = names[i];
        }
    }
    *names_out = names;
    *count_out = count;
    return CPS_OK;
}

/* The lines of a classes file, trimmed, in `text`; NULL-terminated. */
static cps_status split_lines(const char *path, char *text, const char ***lines_out,
                              int64_t *count_out) {
    int64_t most = 2;
    for (const char *c = text; *c != '\0'; ++c) {
        most += *c == '\n';
    }
    const char **lines = malloc((size_t)most * sizeof *lines);
    if (lines == NULL) {
        return fail_memory();
    }
    int64_t count = 0;
    char *rest = strncmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
    for (char *line = strtok_r(rest, "\r\n", &rest); line != NULL;
         line = strtok_r(NULL, "\r\n", &rest)) {
        line += strspn(line, " \t");
        size_t length = strlen(line);
        while (length > 0 && strchr(" \t", line[length - 1]) != NULL) {
            line[--length] = '\0';
        }
        if (length > 0) {
            lines[count++] = line;
        }
    }
    lines[count] = NULL;
    if (count == 0) {
        free(lines);
        return cps_fail(CPS_ERR_USAGE, "the classes file '%s' is empty: it holds one class a line",
                        path);
    }
    *lines_out = lines;
    *count_out = count;
    return CPS_OK;
}

typedef struct class_place {
    const char *name;
    int64_t label;
} class_place;

static int by_class(const void *a, const void *b) {
    return strcmp(((const class_place *)a)->name, ((const class_place *)b)->name);
}

/* Numbers every record's label by its place in `names`. */
static cps_status number_labels(cps_plan *plan, const char *const *names, int64_t count,
                                const char *classes_file) {
    class_place *places = malloc(((size_t)count + 1) * sizeof *places);
    if (places == NULL) {
        return fail_memory();
    }
    for (int64_t i = 0; i < count; ++i) {
        places[i] = (class_place){.name = names[i], .label = i};
    }
    qsort(places, (size_t)count, sizeof *places, by_class);
    cps_status status = CPS_OK;
    for (int64_t i = 1; status == CPS_OK && i < count; ++i) {
        if (strcmp(places[i - 1].name, places[i].name) == 0) {
            status = cps_fail(CPS_ERR_USAGE, "the classes file '%s' names '%s' twice", classes_file,
                              places[i].name);
        }
    }
    for (int64_t r = 0; status == CPS_OK && r < plan->records.count; ++r) {
        cps_plan_record *record = cps_plan_record_at(plan, r);
        if (record->label_name < 0 || record->left_out != CPS_LEFT_NOT) {
            continue;
        }
        const class_place key = {.name = cps_plan_string(plan, record->label_name)};
        const class_place *found = bsearch(&key, places, (size_t)count, sizeof *places, by_class);
        if (found == NULL) {
            const char *near = cps_nearest_name(key.name, names);
            status =
                cps_fail(CPS_ERR_USAGE,
                         "'%s' has label '%s', which is not in the classes file '%s'%s%s%s: add "
                         "it there or correct it",
                         cps_plan_string(plan, record->file), key.name, classes_file,
                         near != NULL ? " (did you mean '" : "", near != NULL ? near : "",
                         near != NULL ? "'?)" : "");
        } else {
            record->label = (int32_t)found->label;
        }
    }
    free(places);
    return status;
}

/* Copies the names into the pool; records carry their numbers already. */
static cps_status keep_classes(cps_plan *plan, const char *const *names, int64_t count) {
    cps_status status = CPS_OK;
    char **copies = calloc((size_t)count + 1, sizeof *copies); /* the pool moves as it grows */
    if (copies == NULL) {
        return fail_memory();
    }
    for (int64_t i = 0; i < count; ++i) {
        copies[i] = cps_format("%s", names[i]);
    }
    for (int64_t i = 0; status == CPS_OK && i < count; ++i) {
        status = add_name(plan, &plan->classes, copies[i]);
    }
    cps_strings_destroy(copies, count);
    return status;
}

static cps_status label_by(cps_plan *plan, const char **names, int64_t count,
                           const char *classes_file) {
    CPS_TRY(number_labels(plan, names, count, classes_file));
    return keep_classes(plan, names, count);
}

static cps_status label_by_file(cps_plan *plan, const char *path) {
    char *text = NULL;
    size_t length = 0;
    const char **lines = NULL;
    int64_t count = 0;
    CPS_TRY(cps_file_read(path, (size_t)64 << 20, &text, &length));
    cps_status status = CPS_OK;
    if (!cps_utf8_is_valid(text, length) || memchr(text, '\0', length) != NULL) {
        status = cps_fail(CPS_ERR_DATA, "the classes file '%s' is not UTF-8 text", path);
    } else {
        status = split_lines(path, text, &lines, &count);
    }
    if (status == CPS_OK) {
        status = label_by(plan, lines, count, path);
    }
    free(lines);
    free(text);
    return status;
}

static cps_status label_sorted(cps_plan *plan) {
    const char **names = NULL;
    int64_t count = 0;
    CPS_TRY(distinct_labels(plan, &names, &count));
    const cps_status status = label_by(plan, names, count, "");
    free(names);
    return status;
}

cps_status cps_plan_finish(cps_plan *plan, const char *classes_file) {
    if (plan->records.count == 0) {
        return cps_fail(CPS_ERR_USAGE, "there are 0 images to pack: the sources name none");
    }
    CPS_TRY(flatten_texts(plan));
    return classes_file != NULL ? label_by_file(plan, classes_file) : label_sorted(plan);
}

/* ---- records of one picture
 * ----------------------------------------------------------------------------------------------
 */

/* Is every text of `one`, file and captions aside, among those of `other`? *facts_out: how many. */
static bool is_part(const cps_plan *plan, const cps_plan_record *one, const cps_plan_record *other,
                    int64_t *facts_out) {
    *facts_out = 0;
    for (int64_t i = 0; i < one->text_count; ++i) {
        const cps_plan_text *text = cps_plan_text_at(plan, one->first_text + i);
        bool found = text->field <= CPS_PLAN_CAPTION;
        *facts_out += !found;
        for (int64_t k = 0; !found && k < other->text_count; ++k) {
            const cps_plan_text *there = cps_plan_text_at(plan, other->first_text + k);
            found = there->field == text->field && strcmp(cps_plan_string(plan, there->text),
                                                          cps_plan_string(plan, text->text)) == 0;
        }
        if (!found) {
            return false;
        }
    }
    return true;
}

bool cps_plan_is_alike(const cps_plan *plan, int64_t a, int64_t b) {
    const cps_plan_record *one = cps_plan_record_at(plan, a);
    const cps_plan_record *other = cps_plan_record_at(plan, b);
    int64_t facts = 0;
    int64_t others = 0;
    return one->label == other->label && is_part(plan, one, other, &facts) &&
           is_part(plan, other, one, &others) && facts == others;
}

static bool has_caption(const cps_plan *plan, const cps_plan_text *first, int64_t count,
                        const char *caption) {
    for (int64_t i = 0; i < count; ++i) {
        if (first[i].field == CPS_PLAN_CAPTION &&
            strcmp(cps_plan_string(plan, first[i].text), caption) == 0) {
            return true;
        }
    }
    return false;
}

/* The texts of a record are a run: its longer run goes to the end of all. */
cps_status cps_plan_unite_captions(cps_plan *plan, int64_t to, int64_t from) {
    cps_plan_record *record = cps_plan_record_at(plan, to);
    const cps_plan_record *other = cps_plan_record_at(plan, from);
    const int64_t first = plan->texts.count;
    cps_plan_text *run =
        extend(&plan->texts, sizeof *run, record->text_count + other->caption_count);
    if (run == NULL) {
        return fail_memory();
    }
    int64_t count = record->text_count;
    if (count > 0) {
        memcpy(run, cps_plan_text_at(plan, record->first_text), (size_t)count * sizeof *run);
    }
    for (int64_t i = 0; i < other->text_count; ++i) {
        const cps_plan_text *text = cps_plan_text_at(plan, other->first_text + i);
        if (text->field == CPS_PLAN_CAPTION &&
            !has_caption(plan, run, count, cps_plan_string(plan, text->text))) {
            run[count++] = *text;
            record->caption_count += 1;
        }
    }
    if (count == record->text_count) {
        plan->texts.count = first; /* nothing new */
        return CPS_OK;
    }
    plan->texts.count = first + count;
    link_run(plan->texts.data, first, count);
    record->first_text = first;
    record->text_count = count;
    return CPS_OK;
}

/* ---- sharing
 * ------------------------------------------------------------------------------------------------------
 */

static void share_array(cps_comm *comm, cps_plan_array *array, size_t element) {
    size_t bytes = (size_t)array->count * element;
    cps_comm_broadcast_alloc(comm, "pack: plan", &array->data, &bytes, 0);
    array->count = (int64_t)(bytes / element);
    if (cps_comm_rank(comm) != 0) {
        array->room = array->count;
    }
}

void cps_plan_share(cps_comm *comm, cps_plan *plan) {
    share_array(comm, &plan->pool, 1);
    share_array(comm, &plan->records, sizeof(cps_plan_record));
    share_array(comm, &plan->texts, sizeof(cps_plan_text));
    share_array(comm, &plan->fields, sizeof(int64_t));
    share_array(comm, &plan->classes, sizeof(int64_t));
}
