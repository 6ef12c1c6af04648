/* Drivers: what `system` gives them, and how their ends become statuses. Each case is a command in
 * Lua, in a library of its own made for the test; what it prints is compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/driver.h"

static char folder[64];
static char printed[4096];

static void note(const char *text) {
    const size_t length = strlen(printed);
    snprintf(printed + length, sizeof printed - length, "%s\n", text);
}

static cps_status double_it(const cps_json *request, cps_json **result_out) {
    if (!cps_json_is_number(cps_json_get(request, "x"))) {
        return cps_fail(CPS_ERR_DATA, "there is no x");
    }
    *result_out = cps_json_new_object();
    cps_json_add_number(*result_out, "twice", 2 * cps_json_get_number(request, "x", 0));
    return CPS_OK;
}
static const cps_driver_service services[] = {{"double", double_it}, {NULL, NULL}};

/* Runs `body` as the function of a command, with `folder` as its local F. */
static cps_status drive(const char *body) {
    char *path = cps_format("%s/copse/commands/case.lua", folder);
    char *text = cps_format("local F = system.environment 'TEST_FOLDER'\nreturn { run = "
                            "function(arguments)\n%s\nend }\n",
                            body);
    assert_int_equal(cps_file_write_atomic(path, text, strlen(text)), CPS_OK);
    free(text);
    free(path);
    printed[0] = '\0';
    cps_json *arguments = NULL;
    const char *given = "{\"operands\":[\"a\"],\"flags\":{\"dry-run\":true},\"all\":{}}";
    assert_int_equal(cps_json_parse(given, strlen(given), "arguments", &arguments), CPS_OK);
    const cps_driver driver = {.lua_folder = folder,
                               .program = "/bin/true",
                               .version = "1",
                               .cores = 2,
                               .services = services,
                               .print = note};
    const cps_status status = cps_driver_run(&driver, "case now", arguments);
    cps_json_destroy(arguments);
    return status;
}

static void expect(const char *body, const char *text) {
    const cps_status status = drive(body);
    if (status != CPS_OK) {
        fail_msg("%s: %s", body, cps_fail_message());
    }
    assert_string_equal(printed, text);
}

static void test_ends(void **state) {
    (void)state;
    expect("system.print(arguments.operands[1] .. tostring(arguments.flags['dry-run']))",
           "atrue\n");
    assert_int_equal(drive("return 85"), CPS_ERR_SIGNAL);
    assert_string_equal(cps_fail_message(), "");
    assert_int_equal(drive("system.fail('data', 'line %d of %s', 7, 'x')"), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "line 7 of x");
    assert_int_equal(drive("local x = nil; x.y = 1"), CPS_ERR_INTERNAL);
    assert_non_null(strstr(cps_fail_message(), "case.lua:3"));
    assert_int_equal(drive("require 'copse.nowhere'"), CPS_ERR_INTERNAL);
    assert_int_equal(drive("io.write('x')"), CPS_ERR_INTERNAL);
}

static void test_services(void **state) {
    (void)state;
    expect("system.print(system.service('double', { x = 21 }).twice)", "42\n");
    assert_int_equal(drive("system.service('double', { y = 1 })"), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "there is no x");
    assert_int_equal(drive("system.service('triple', {})"), CPS_ERR_INTERNAL);
}

static void test_files(void **state) {
    (void)state;
    expect("system.print(tostring(system.write(F .. '/a', 'one')) .. system.read(F .. '/a'))\n"
           "system.print(tostring(system.append(F .. '/a', ' two')) .. system.read(F .. '/a'))",
           "trueone\ntrueone two\n");
    expect("local ok, why, code = system.create(F .. '/a', 'three') system.print(tostring(ok) .. ' "
           "' .. code)\n"
           "system.print(system.read(F .. '/a') .. #system.list(F .. '/copse/commands'))",
           "nil EEXIST\none two1\n");
    expect("local _, _, code = system.read(F .. '/none') system.print(code)\n"
           "_, _, code = system.read(F) system.print(code)\n"
           "_, _, code = system.read(F .. '/a', 3) system.print(code)",
           "ENOENT\nEISDIR\nEFBIG\n");
    expect("system.mkdir(F .. '/x/y') system.create(F .. '/x/y/b', 'B') system.link(F .. '/x/y/b', "
           "F .. '/x/y/c')\n"
           "system.rename(F .. '/x/y/b', F .. '/x/y/d') system.print(table.concat(system.list(F .. "
           "'/x/y'), ' '))\n"
           "local _, _, code = system.remove(F .. '/x/y') system.print(code .. system.stat(F .. "
           "'/x/y/d').kind)",
           "c d\nENOTEMPTYfile\n");
    expect("local before = system.stat(F .. '/a').time system.sleep(0.02) system.touch(F .. '/a')\n"
           "system.print(tostring(system.stat(F .. '/a').time > before))",
           "true\n");
}

static void test_texts(void **state) {
    (void)state;
    expect("system.print(system.base64('any carnal pleas') .. system.base64('') .. "
           "system.base64('a'))",
           "YW55IGNhcm5hbCBwbGVhcw==YQ==\n");
    expect("local t = system.decode('{\"a\":[1,null,{\"b\":\"c\"}],\"d\":1.5}') "
           "system.print(t.a[3].b .. t.d .. math.type(t.a[1]))",
           "c1.5integer\n");
    expect("local value, why = system.decode('{\"a\":', 'line 3') system.print(tostring(value) .. "
           "tostring(why:find('line 3') ~= nil))",
           "niltrue\n");
    expect("system.print(system.digest('a') == system.digest('a') and #system.digest('b') or 0)\n"
           "system.print(system.nearest('comapre', { 'report', 'compare' }))",
           "16\ncompare\n");
}

static void test_processes(void **state) {
    (void)state;
    expect("local r = system.capture{ argv = { 'sh', '-c', 'cat; echo no >&2; exit 3' }, input = "
           "('x'):rep(200000) }\n"
           "system.print(#r.output .. r.errors .. r.code)",
           "200000no\n3\n");
    expect(
        "local r, why, code = system.capture{ argv = { 'no-such-program' } } system.print(code)\n"
        "r, why, code = system.capture{ argv = { 'sleep', '30' }, seconds = 0.2 } "
        "system.print(code)",
        "ENOENT\nETIMEDOUT\n");
    expect("local pid = system.spawn{ argv = { 'sh', '-c', 'echo $A; kill -TERM $$' }, output = F "
           ".. '/log', environment = { A = 'b', PWD = false } }\n"
           "local ended, code = system.wait(20) system.print(tostring(ended == pid) .. code .. "
           "system.read(F .. '/log'))",
           "true143b\n\n");
    expect("local pid = system.spawn{ argv = { 'sleep', '30' } } "
           "system.print(tostring(system.wait(0.05)) .. tostring(system.alive(pid)))\n"
           "system.kill(-pid, 'KILL') local ended, code = system.wait(20) system.print(code .. "
           "tostring(system.alive(pid)))",
           "niltrue\n137false\n");
    expect("local begun = system.clock() system.print(tostring(system.wait(0.1)) .. "
           "tostring(system.clock() - begun >= 0.1))",
           "niltrue\n");
    expect("system.signals() system.kill(system.pid, 'USR1') local begun = system.clock() "
           "system.sleep(20)\n"
           "system.print(table.concat(system.signals(), ' ') .. #system.signals() .. "
           "tostring(system.clock() - begun < 10))",
           "USR10true\n");
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/copse-driver-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return 1;
    }
    setenv("TEST_FOLDER", folder, 1);
    char *command =
        cps_format("mkdir -p %s/copse/commands && cp lua/copse/text.lua %s/copse/", folder, folder);
    const int made = system(command);
    free(command);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),      cmocka_unit_test(test_services),
        cmocka_unit_test(test_files),     cmocka_unit_test(test_texts),
        cmocka_unit_test(test_processes),
    };
    const int failed = made != 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
    command = cps_format("rm -rf %s", folder);
    const int removed = system(command);
    free(command);
    return failed + (removed != 0);
}
