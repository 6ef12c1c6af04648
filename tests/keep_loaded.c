/* Linked into every program of a sanitizer build: libraries stay loaded, so that the leak checker
 * can name those that a leak comes from and tests/leaks.supp can tell other people's from ours. */
int dlclose(void *handle);

__attribute__((visibility("default"))) int dlclose(void *handle) {
    (void)handle;
    return 0;
}
