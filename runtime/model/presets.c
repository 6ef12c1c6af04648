#include "model/presets.h"

#include <string.h>

#include "model/model.h"

static const cps_preset presets[] = {
    {"ViT-B-32", 224, 32, 768, 12, 512, 12, 77, 512},
    {"ViT-B-16", 224, 16, 768, 12, 512, 12, 77, 512},
    {"ViT-L-14", 224, 14, 1024, 24, 768, 12, 77, 768},
    {"ViT-S-32", 224, 32, 384, 12, 384, 12, 77, 384},
    {"ViT-S-16", 224, 16, 384, 12, 384, 12, 77, 384},
    {"ViT-Tiny-16", 224, 16, 192, 12, 192, 6, 77, 192},
    {"ViT-Micro-8", 64, 8, 192, 6, 192, 3, 32, 192},
};

const cps_preset *cps_preset_find(const char *name, bool *quick_gelu_out) {
    static const char twin[] = "-quickgelu";
    size_t length = strlen(name);
    bool quick = false;
    if (length >= sizeof twin && strcmp(name + length - (sizeof twin - 1), twin) == 0) {
        length -= sizeof twin - 1;
        quick = true;
    }
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strlen(presets[i].name) == length && strncmp(presets[i].name, name, length) == 0) {
            *quick_gelu_out = quick;
            return &presets[i];
        }
    }
    return NULL;
}

const char *const *cps_model_presets(void) {
    static const char *const names[] = {
        "ViT-B-32",    "ViT-B-32-quickgelu",    "ViT-B-16",    "ViT-B-16-quickgelu",
        "ViT-L-14",    "ViT-L-14-quickgelu",    "ViT-S-32",    "ViT-S-32-quickgelu",
        "ViT-S-16",    "ViT-S-16-quickgelu",    "ViT-Tiny-16", "ViT-Tiny-16-quickgelu",
        "ViT-Micro-8", "ViT-Micro-8-quickgelu", NULL};
    return names;
}
