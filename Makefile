# Copse. `make` builds build/copse and the objective plugins; `make help` lists the rest.
# Objects are out of tree: build/<flavour>/..., flavour = float or double, "-address-undefined" and the like added when
# SAN is set. build/copse is the program of REAL (float unless told otherwise).

REAL ?= float
SAN ?=
WERROR ?=
V ?=
BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := 0.1.0

# ---- what is needed -----------------------------------------------------------------------------------------------------
# Debian 12; pkg-config itself may be missing when this file is read, so `demo` and `test` run `deps` first and make again.
PACKAGES := gcc libc6-dev pkg-config openmpi-bin libopenmpi-dev libhdf5-openmpi-dev libopenblas-pthread-dev libjpeg-dev \
            libpng-dev liblua5.4-dev lua5.4 libxxhash-dev libcjson-dev libutf8proc-dev zlib1g-dev libcmocka-dev \
            libdnnl-dev
PKGS := hdf5-openmpi ompi-c libjpeg libpng lua5.4 libxxhash libcjson libutf8proc zlib
pkg_config = $(shell command -v pkg-config >/dev/null 2>&1 && pkg-config $(1) $(PKGS) 2>/dev/null)
pkg_missing := $(shell pkg-config --exists $(PKGS) 2>/dev/null || echo yes)
pkg_cflags := $(call pkg_config,--cflags)
pkg_libs := $(call pkg_config,--libs) -lopenblas -lpthread -lm -ldl

# ---- flags --------------------------------------------------------------------------------------------------------------
comma := ,
flavour_suffix := $(if $(SAN),-$(subst $(comma),-,$(SAN)))
warnings := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wdouble-promotion -Wundef -Wstrict-prototypes \
            -Wmissing-prototypes -Wwrite-strings -Wformat=2 -Wvla
# clang says where it could not vectorize a loop that asks for it: news, no fault.
warnings += $(if $(findstring clang,$(shell $(CC) --version 2>/dev/null)),-Wno-pass-failed)
werror := $(if $(WERROR),-Werror)
arch := $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v2)
sanitize := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
common_cflags := -std=c11 -O2 -g $(arch) $(warnings) -fvisibility=hidden -fno-math-errno -ffp-contract=off $(sanitize)
# What a checkpoint remembers of the build: other compilers may give other bits.
build_id := $(VERSION), $(shell $(CC) --version 2>/dev/null | head -n 1)
engine_cflags := $(common_cflags) -D_GNU_SOURCE -DCPS_RUNTIME -DCPS_VERSION='"$(VERSION)"' -DCPS_BUILD_ID='"$(build_id)"' -Iruntime -I.
plugin_cflags := $(common_cflags) -fPIC -Iruntime -Iruntime/plugin
foreign := $(patsubst -I%,-isystem %,$(pkg_cflags))
# Sanitizers leave their own symbols open in a plugin; otherwise nothing may be.
plugin_ldflags := -shared $(if $(SAN),,-Wl$(comma)-z$(comma)defs) $(sanitize)
quiet = $(if $(V),,@printf '  %-4s %s\n' $(1) $@;)

# ---- sources ------------------------------------------------------------------------------------------------------------
main_sources := $(wildcard runtime/main*.c)
engine_sources := $(wildcard runtime/*/*.c) $(wildcard shards/*.c)
plugin_names := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard plugins/*/*.c)))))
test_plugin_names := $(patsubst tests/plugins/%.c,%,$(wildcard tests/plugins/*.c))
lua_sources := $(wildcard lua/copse/*.lua)
lua_commands := $(wildcard lua/copse/commands/*.lua)
# Runners of golden vectors are tests/vectors/vectors_X.c; what they share stands beside them.
vectors_shared := $(filter-out tests/vectors/vectors_%.c,$(wildcard tests/vectors/*.c))

.DEFAULT_GOAL := all
.PHONY: all
all: $(BUILD)/copse plugins

# ---- one set of rules per flavour ---------------------------------------------------------------------------------------
.PHONY: force packages
force:
packages:
ifdef pkg_missing
	@echo "Some libraries are missing. 'make deps' installs them or prints the command that does." >&2; exit 1
endif

# plugin_rules(root, plugin, sources, target, flags): objects apart from the engine's, because they are position independent
# and see other headers.
define plugin_rules
$(4): $(patsubst %.c,$(1)/plugin-obj/%.o,$(3))
	@mkdir -p $$(@D)
	$$(call quiet,SO)$$(CC) $$^ -o $$@ $(plugin_ldflags) -lm $$(LDFLAGS)
endef

define flavour_rules
$(1)_root := $(BUILD)/$(1)$(flavour_suffix)
$(1)_objects := $$(patsubst %.c,$$($(1)_root)/obj/%.o,$(engine_sources))
$(1)_extra := $(if $(SAN),$$($(1)_root)/obj/tests/keep_loaded.o)
$(1)_main := $$(patsubst %.c,$$($(1)_root)/obj/%.o,$(main_sources))
# A change of compiler or flags rebuilds everything.
$$($(1)_root)/flags: force
	@mkdir -p $$(@D)
	@echo '$$(CC) $(subst ','\'',$(engine_cflags)) $(2) $(foreign) $$(CFLAGS)' | cmp -s - $$@ || \
	    echo '$$(CC) $(subst ','\'',$(engine_cflags)) $(2) $(foreign) $$(CFLAGS)' >$$@
$$($(1)_root)/obj/%.o: %.c $$($(1)_root)/flags | packages
	@mkdir -p $$(@D)
	$$(call quiet,CC)$$(CC) $(engine_cflags) $(werror) $(2) $(foreign) $$(CFLAGS) -MMD -MP -c $$< -o $$@
$$($(1)_root)/plugin-obj/%.o: %.c $$($(1)_root)/flags
	@mkdir -p $$(@D)
	$$(call quiet,CC)$$(CC) $(plugin_cflags) $(werror) $(2) $$(CFLAGS) -MMD -MP -c $$< -o $$@
$$($(1)_root)/libcopse.a: $$($(1)_objects)
	@rm -f $$@
	$$(call quiet,AR)ar rcs $$@ $$^
$$($(1)_root)/copse: $$($(1)_main) $$($(1)_extra) $$($(1)_root)/libcopse.a
	$$(call quiet,LD)$$(CC) $(sanitize) $$^ -o $$@ $(pkg_libs) $$(LDFLAGS)
$(foreach p,$(plugin_names),$(call plugin_rules,$(BUILD)/$(1)$(flavour_suffix),$(p),$(filter-out %_test.c,$(wildcard plugins/$(p)/*.c)),$(BUILD)/$(1)$(flavour_suffix)/plugins/$(p).so)
)
$(foreach p,$(test_plugin_names),$(call plugin_rules,$(BUILD)/$(1)$(flavour_suffix),$(p),tests/plugins/$(p).c,$(BUILD)/$(1)$(flavour_suffix)/tests/plugins/$(p).so)
)
$(1)_plugins := $(patsubst %,$(BUILD)/$(1)$(flavour_suffix)/plugins/%.so,$(plugin_names))
$(1)_test_plugins := $(patsubst %,$(BUILD)/$(1)$(flavour_suffix)/tests/plugins/%.so,$(test_plugin_names))
# A test is one object, the library and cmocka.
$$($(1)_root)/tests/%: $$($(1)_root)/obj/tests/%.o $$($(1)_extra) $$($(1)_root)/libcopse.a
	@mkdir -p $$(@D)
	$$(call quiet,LD)$$(CC) $(sanitize) $$^ -o $$@ $(pkg_libs) -lcmocka $$(LDFLAGS)
$$($(1)_root)/tests/plugins/%_test: $$($(1)_root)/obj/plugins/%_test.o $$($(1)_extra) $$($(1)_root)/libcopse.a
	@mkdir -p $$(@D)
	$$(call quiet,LD)$$(CC) $(sanitize) $$^ -o $$@ $(pkg_libs) -lcmocka $$(LDFLAGS)
# Operations of a plugin are checked one by one, from its own objects.
$$($(1)_root)/obj/plugins/agriclip/agriclip_dino_ops_test.o: private CFLAGS += -Iruntime/plugin
$$($(1)_root)/tests/plugins/agriclip/agriclip_dino_ops_test: $(patsubst %.c,$(BUILD)/$(1)$(flavour_suffix)/plugin-obj/%.o,$(filter-out %_test.c,$(wildcard plugins/agriclip/*.c)))
$$($(1)_root)/tests/vectors_%: $$($(1)_root)/obj/tests/vectors/vectors_%.o $$(patsubst %.c,$$($(1)_root)/obj/%.o,$(vectors_shared)) \
                                $$($(1)_extra) $$($(1)_root)/libcopse.a
	@mkdir -p $$(@D)
	$$(call quiet,LD)$$(CC) $(sanitize) $$^ -o $$@ $(pkg_libs) $$(LDFLAGS)
# Golden numbers that need no files run objectives as the runners do.
$$($(1)_root)/tests/golden/objectives_test: $$($(1)_root)/obj/tests/golden/objectives_test.o \
                                           $$(patsubst %.c,$$($(1)_root)/obj/%.o,$(vectors_shared)) \
                                           $$($(1)_extra) $$($(1)_root)/libcopse.a
	@mkdir -p $$(@D)
	$$(call quiet,LD)$$(CC) $(sanitize) $$^ -o $$@ $(pkg_libs) -lcmocka $$(LDFLAGS)
# What s-clip.h5 says of the inside of its plugin is asked of the plugin's own objects.
$$($(1)_root)/obj/tests/vectors/vectors_sclip.o: private CFLAGS += -Iruntime/plugin
$$($(1)_root)/tests/vectors_sclip: $(patsubst %.c,$(BUILD)/$(1)$(flavour_suffix)/plugin-obj/%.o,$(filter-out %_test.c,$(wildcard plugins/sclip/*.c)))
# The same of DALIP's distance covariance.
$$($(1)_root)/obj/tests/golden/dalip_test.o $$($(1)_root)/obj/tests/vectors/vectors_dalip.o $$($(1)_root)/obj/tests/bench/dalip_bench.o: private CFLAGS += -Iruntime/plugin
$$($(1)_root)/tests/golden/dalip_test $$($(1)_root)/tests/vectors_dalip $$($(1)_root)/tests/bench/dalip_bench: \
    $(patsubst %.c,$(BUILD)/$(1)$(flavour_suffix)/plugin-obj/%.o,$(filter-out %_test.c,$(wildcard plugins/dalip/*.c)))
$$($(1)_root)/obj/tests/vectors/dalip/%.o: private CFLAGS += -Iruntime/plugin
$$($(1)_root)/tests/vectors_dalip: $(patsubst %.c,$(BUILD)/$(1)$(flavour_suffix)/obj/%.o,$(wildcard tests/vectors/dalip/*.c))
# The same of agriclip.h5; and where it begins behind the loader or the tower, the linker puts the runner's functions there.
$$($(1)_root)/obj/tests/vectors/agriclip/parts.o: private CFLAGS += -Iruntime/plugin
$$($(1)_root)/tests/vectors_agriclip: private LDFLAGS += -Wl$(comma)--wrap=cps_tower_forward -Wl$(comma)--wrap=cps_batch_planes
$$($(1)_root)/tests/vectors_agriclip: $(patsubst %.c,$(BUILD)/$(1)$(flavour_suffix)/obj/%.o,$(wildcard tests/vectors/agriclip/*.c)) \
    $(patsubst %.c,$(BUILD)/$(1)$(flavour_suffix)/plugin-obj/%.o,$(filter-out %_test.c,$(wildcard plugins/agriclip/*.c)))
-include $$(shell find $(BUILD)/$(1)$(flavour_suffix) -name '*.d' 2>/dev/null)
endef
$(eval $(call flavour_rules,float,))
$(eval $(call flavour_rules,double,-DCPS_REAL_DOUBLE))

.SECONDARY:
.DELETE_ON_ERROR:

root := $(BUILD)/$(REAL)$(flavour_suffix)
.PHONY: plugins test_plugins program lua_link
plugins: $($(REAL)_plugins)
test_plugins: $($(REAL)_test_plugins)
# The program finds its Lua library beside its folder: build/lua here, share/copse/lua when installed.
lua_link:
	@mkdir -p $(BUILD)
	@[ "$$(readlink $(BUILD)/lua)" = "$(CURDIR)/lua" ] || ln -sfn "$(CURDIR)/lua" $(BUILD)/lua
$(BUILD)/copse: $(root)/copse force | lua_link
	@[ "$$(readlink $@)" = "$(notdir $(root))/copse" ] || ln -sf $(notdir $(root))/copse $@
program: $(BUILD)/copse plugins

# ---- packages -----------------------------------------------------------------------------------------------------------
.PHONY: deps
deps:
	@missing=; for package in $(PACKAGES); do \
	    [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	    if [ -z "$(pkg_missing)" ]; then exit 0; fi; \
	    echo "This is no Debian system. Install what these packages hold, then make again:" >&2; \
	    echo "   $(PACKAGES)" >&2; exit 1; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else \
	    echo "Packages are missing, and installing them needs an administrator:" >&2; \
	    echo "    apt-get update && apt-get install -y --no-install-recommends$$missing" >&2; exit 1; \
	fi; \
	echo "Installing$$missing"; \
	$$sudo apt-get -q update >/dev/null && \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get -q install -y --no-install-recommends $$missing >/dev/null

# What the tests on a real Slurm need besides; without it they skip. Never an error.
SLURM_PACKAGES := slurm-wlm munge iproute2
.PHONY: deps-slurm
deps-slurm:
	@missing=; for package in $(SLURM_PACKAGES); do \
	    [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "Not installed, so tests on Slurm will skip:$$missing"; exit 0; \
	fi; \
	echo "Installing$$missing"; \
	apt-get -q update >/dev/null 2>&1; \
	DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing >/dev/null 2>&1 || \
	    echo "They could not be installed, so tests on Slurm will skip"

# ---- tests --------------------------------------------------------------------------------------------------------------
# tests/run.sh takes command lines and sums up what they count. A group is: the programs to build, then the commands.
jobs = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
again = +@$(MAKE) --no-print-directory $(jobs)
programs = $(patsubst %.c,$(2)/%,$(wildcard tests/$(1)/*_test.c))
scripts = $(filter-out %/run.sh,$(wildcard tests/$(1)/*.sh))
plugin_tests = $(patsubst plugins/%.c,$(1)/tests/plugins/%,$(wildcard plugins/*/*_test.c))

unit_programs := $(call programs,unit,$(root))
golden_programs := $(call programs,golden,$(root))
lua_programs := $(call programs,lua,$(root))
grad_programs := $(call programs,grad,$(double_root)) $(call plugin_tests,$(double_root))
ranks_programs := $(call programs,ranks,$(root))
fault_programs := $(call programs,fault,$(root))
vectors_runners := $(patsubst tests/vectors/vectors_%.c,%,$(wildcard tests/vectors/vectors_*.c))
vectors_programs := $(patsubst %,$(BUILD)/tests/vectors_%,$(vectors_runners)) \
                    $(patsubst %,$(float_root)/tests/vectors_%,$(vectors_runners))

# Every word is one command: '+' stands for a blank.
layers_items := $(if $(wildcard tests/layers.lua),lua5.4+tests/layers.lua)
check_items := $(layers_items) $(unit_programs) $(golden_programs) $(lua_programs) $(call scripts,lua)
grad_items := $(grad_programs)
ranks_items := $(foreach p,$(ranks_programs),$(foreach n,1 2 3 4,tests/mpirun.sh+$(n)+$(p))) $(call scripts,ranks)
fault_items := $(fault_programs) $(call scripts,fault)
parity_programs := $(root)/tests/parity/features
parity_items := $(call scripts,parity)
vectors_items := $(foreach p,$(vectors_programs),tests/vectors/run.sh+$(p))
cli_items := $(call scripts,cli)
readme_items := $(call scripts,readme)
install_items := $(call scripts,install)
slurm_items := $(call scripts,slurm)
run_items = $(test_environment) tests/run.sh $(foreach i,$(1),'$(subst +, ,$(i))')
test_environment = COPSE='$(abspath $(BUILD)/copse)' COPSE_BUILD='$(abspath $(BUILD))' COPSE_ROOT='$(abspath $(root))' \
                   MAKE='$(MAKE)' CC='$(CC)'

.PHONY: unit check grad ranks fault vectors parity cli slurm readme install-test
unit: $(unit_programs) program test_plugins
	@$(call run_items,$(unit_programs))
check: $(unit_programs) $(golden_programs) $(lua_programs) program test_plugins
	@$(call run_items,$(check_items))
grad: $(grad_programs) $(double_plugins) $(double_test_plugins)
	@$(call run_items,$(grad_items))
ranks: $(ranks_programs) program test_plugins
	@$(call run_items,$(ranks_items))
fault: $(fault_programs) program test_plugins
	@$(call run_items,$(fault_items))
# Runners of the golden vectors: build/tests/vectors_X in double, build/float/tests/vectors_X in float. Objectives are run
# through the plugins of their flavour.
vectors: $(vectors_programs) $(double_plugins) $(float_plugins) | lua_link
	@$(call run_items,$(vectors_items))
$(BUILD)/tests/vectors_%: $(double_root)/tests/vectors_%
	@mkdir -p $(@D)
	@ln -sf ../$(notdir $(double_root))/tests/$(@F) $@
# Against open_clip, where COPSE_PYTHON or python3 has it.
parity: $(parity_programs)
	@$(call run_items,$(parity_items))
cli: program test_plugins
	@$(call run_items,$(cli_items))
# On a real Slurm, from ../shared/lab.
slurm: program test_plugins
	@$(call run_items,$(slurm_items))
readme: program
	@$(call run_items,$(readme_items))
install-test: program
	@$(call run_items,$(install_items))

.PHONY: test test-run test-programs
test:
	$(again) deps
	$(again) test-programs
	+@$(MAKE) --no-print-directory test-run
test-programs: program test_plugins $(unit_programs) $(golden_programs) $(lua_programs) $(grad_programs) $(double_plugins) $(double_test_plugins) \
               $(ranks_programs) $(fault_programs) $(vectors_programs) $(float_plugins) $(parity_programs)
test-run:
	@$(call run_items,$(check_items) $(grad_items) $(vectors_items) $(parity_items) $(cli_items) $(ranks_items) $(fault_items) \
	    $(slurm_items) $(install_items) $(readme_items))

.PHONY: tidy
tidy: program $(double_plugins)
	@$(test_environment) ENGINE_CFLAGS='$(subst ','\'',$(engine_cflags) $(foreign))' PLUGIN_CFLAGS='$(plugin_cflags)' tests/tidy.sh

bench_programs := $(patsubst %.c,$(root)/%,$(wildcard tests/bench/*_bench.c))
# All of the program, with clocks between its parts: see the file.
probe_wraps := cps_products cps_gemm cps_gemm_exact cps_gemm_serial cps_openblas_real cps_step_run cps_loop_checkpoint \
               cps_loop_finish_report
$(root)/step_probe: $(root)/obj/tests/bench/step_probe.o $($(REAL)_main) $(root)/libcopse.a
	$(call quiet,LD)$(CC) $(sanitize) $^ -o $@ $(patsubst %,-Wl$(comma)--wrap=%,$(probe_wraps)) $(pkg_libs) $(LDFLAGS)
.PHONY: bench
bench: $(bench_programs) $(root)/step_probe program test_plugins
	@for program in $(bench_programs) $(call scripts,bench); do $(test_environment) $$program || exit; done

# ---- demo ---------------------------------------------------------------------------------------------------------------
.PHONY: demo
demo:
	$(again) deps
	$(again) program
	@COPSE='$(BUILD)/copse' jobs/demo.sh

# ---- install ------------------------------------------------------------------------------------------------------------
headers := plugin/copse_objective.h plugin/services.inc base/types.h tensor/op_types.h tensor/ops.inc
.PHONY: install uninstall
install: program
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib/copse/plugins' '$(DESTDIR)$(PREFIX)/lib/pkgconfig' \
	    '$(DESTDIR)$(PREFIX)/share/copse/lua/copse/commands'
	install -m 755 $(root)/copse '$(DESTDIR)$(PREFIX)/bin/copse'
	install -m 644 $($(REAL)_plugins) '$(DESTDIR)$(PREFIX)/lib/copse/plugins'
	install -m 644 $(lua_sources) '$(DESTDIR)$(PREFIX)/share/copse/lua/copse'
	for command in $(lua_commands); do \
	    install -m 644 $$command '$(DESTDIR)$(PREFIX)/share/copse/lua/copse/commands' || exit; \
	done
	for header in $(headers); do \
	    install -D -m 644 runtime/$$header '$(DESTDIR)$(PREFIX)/include/copse/'$$header || exit; \
	done
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include/copse' 'plugindir=$${prefix}/lib/copse/plugins' '' \
	    'Name: copse' 'Description: headers for objective plugins of Copse' 'Version: $(VERSION)' \
	    'Cflags: -std=c11 -fPIC -fvisibility=hidden $(if $(filter double,$(REAL)),-DCPS_REAL_DOUBLE )-I$${includedir} -I$${includedir}/plugin' \
	    'Libs: -shared -lm' >'$(DESTDIR)$(PREFIX)/lib/pkgconfig/copse.pc'
uninstall:
	rm -rf '$(DESTDIR)$(PREFIX)/bin/copse' '$(DESTDIR)$(PREFIX)/lib/copse' '$(DESTDIR)$(PREFIX)/share/copse' \
	    '$(DESTDIR)$(PREFIX)/include/copse' '$(DESTDIR)$(PREFIX)/lib/pkgconfig/copse.pc'

.PHONY: clean help
clean:
	rm -rf $(BUILD)

help:
	@printf '%s\n' \
	    'make            build/copse and its plugins (release)' \
	    'make demo       installs what is missing, builds, trains on a drawn data set, shows the result (6 minutes)' \
	    'make test       all tests below except bench and tidy; one closing line' \
	    'make check      unit, golden and Lua tests, under a minute' \
	    'make grad       gradients against finite differences, in double' \
	    'make ranks      the same bits on 1, 2, 3 and 4 ranks' \
	    'make fault      broken files, full disks, killed ranks' \
	    'make vectors    golden vectors (../shared/vectors), double and float' \
	    'make parity     towers and weights against open_clip, where COPSE_PYTHON has it' \
	    'make cli        commands, options, messages, exit codes' \
	    'make slurm      on a real Slurm, where ../shared/lab and Slurm are (make deps-slurm)' \
	    'make readme     the commands of README.md' \
	    'make bench      speed' \
	    'make tidy       format, layers, lone headers, exported symbols, documented options' \
	    'make install    to $$(DESTDIR)$$(PREFIX), default /usr/local; make uninstall' \
	    'make deps       Debian packages: installs them where it may, else prints the command' \
	    'make deps-slurm those of the tests on Slurm' \
	    'make clean      removes build/' \
	    'Variables: REAL=float|double  SAN=address,undefined  WERROR=1  CC=clang  BUILD=folder  V=1 (full commands)'
