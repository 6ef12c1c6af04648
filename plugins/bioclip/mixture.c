/* Draws of text types. The published training code draws one type for the whole batch of a step
 * with Python's `random`, seeded by the step; those draws are made here with the same generator. */
#include <stddef.h>

#include "bioclip.h"

const char *const bioclip_type_names[] = {"sci",       "com",      "taxon",        "sci_com",
                                          "taxon_com", "taxonTag", "taxonTag_com", NULL};

/* The first `count` outputs of the generator after seed(step): seeded by the step's 32-bit words,
 * low word first, as many as it has and one at least. */
static void numbers_of_step(const cps_host *host, int64_t step, int64_t count, uint32_t *out) {
    const uint32_t words[2] = {(uint32_t)step, (uint32_t)((uint64_t)step >> 32)};
    host->mt19937(words, words[1] != 0 ? 2 : 1, count, out);
}

/* choice() of n things: as many leading bits of each number as n has binary digits, until they are
 * less than n. At least every second number serves, so that ENOUGH of them hold one but for one
 * time in 2^ENOUGH. */
static int32_t choose(const cps_host *host, int64_t step, int32_t n) {
    enum { ENOUGH = 256 };
    uint32_t numbers[ENOUGH];
    int32_t bits = 0, at = 0;
    while (n >> bits > 0) {
        bits++;
    }
    numbers_of_step(host, step, ENOUGH, numbers);
    while (at + 1 < ENOUGH && numbers[at] >> (32 - bits) >= (uint32_t)n) {
        at++;
    }
    return (int32_t)(numbers[at] >> (32 - bits)) % n;
}

/* The first of the types whose cumulative weight lies above `uniform` (in [0, 1)) of the whole. */
static int32_t by_weight(const bioclip_mixture *mixture, double uniform) {
    const double at = uniform * mixture->cumulative[mixture->count - 1];
    int32_t i = 0;
    while (i + 1 < mixture->count && mixture->cumulative[i] <= at) {
        i++;
    }
    return i;
}

static int32_t draw(const bioclip_mixture *mixture, const cps_host *host, int64_t step) {
    if (mixture->count == 1) {
        return mixture->types[0];
    }
    if (mixture->equal) {
        return mixture->types[choose(host, step, mixture->count)];
    }
    uint32_t numbers[2]; /* random(): 27 and 26 bits of two numbers */
    numbers_of_step(host, step, 2, numbers);
    const double uniform =
        ((double)(numbers[0] >> 5) * 0x1p26 + (double)(numbers[1] >> 6)) * 0x1p-53;
    return mixture->types[by_weight(mixture, uniform)];
}

cps_status bioclip_mixture_create(cps_setup *setup, const cps_numbers *weights, bool per_step,
                                  bioclip_mixture *mixture_out) {
    enum { MOST_STEPS = 1 << 14 }; /* beyond, each draw is made when it is needed */
    bioclip_mixture mixture = {.equal = true};
    double total = 0.0, first = 0.0;
    for (int32_t type = 0; type < BIOCLIP_TYPES; type++) {
        const double weight = weights->values[type];
        if (weight > 0.0) {
            first = mixture.count == 0 ? weight : first;
            mixture.equal = mixture.equal && weight == first;
            mixture.types[mixture.count] = type;
            mixture.cumulative[mixture.count++] = total += weight;
        }
    }
    if (mixture.count == 0) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "text_types has the weight 0 for every type, so that no text is left to "
                         "show: give at least one of them a weight, as in text_types = { sci = 1, "
                         "com = 1 }");
    }
    if (per_step) {
        const int64_t steps = cps_setup_steps(setup);
        const int64_t known = steps < MOST_STEPS ? steps : MOST_STEPS;
        uint8_t *of_step = cps_setup_alloc(setup, (size_t)known + 1);
        if (of_step == NULL) {
            return CPS_ERR_UNAVAILABLE;
        }
        for (int64_t step = 0; step < known; step++) {
            of_step[step] = (uint8_t)draw(&mixture, cps_host_of(setup), step);
        }
        mixture.known = known;
        mixture.of_step = of_step;
    }
    *mixture_out = mixture;
    return CPS_OK;
}

int32_t bioclip_type_of_step(const bioclip_mixture *mixture, const cps_host *host, int64_t step) {
    return step < mixture->known ? mixture->of_step[step] : draw(mixture, host, step);
}

int32_t bioclip_type_of_image(const bioclip_mixture *mixture, const cps_record_ref *record) {
    const cps_draw_key key = cps_record_draws(record, "bioclip.text_type");
    return mixture->types[by_weight(mixture, cps_host_of(record)->draw_uniform(&key, 0))];
}
