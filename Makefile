# Copse. `make` builds build/copse and the objective plugins; `make help` lists the rest.
# Objects are out of tree: build/<flavour>/..., flavour = float or double, with "-asan" and the like when SAN is set.

REAL ?= float
SAN ?=
WERROR ?=
BUILD ?= build
PREFIX ?= /usr/local
CC ?= cc
ifeq ($(origin CC),default)
CC := gcc
endif

comma := ,
flavour_suffix := $(if $(SAN),-$(subst $(comma),-,$(SAN)))

PKGS := hdf5-openmpi ompi-c libjpeg libpng lua5.4 libxxhash libcjson libpcre2-8 libutf8proc zlib
pkg_cflags := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
pkg_libs := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lopenblas -lpthread -lm -ldl

warnings := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wdouble-promotion -Wundef -Wstrict-prototypes \
            -Wmissing-prototypes -Wwrite-strings -Wformat=2 -Wvla $(if $(WERROR),-Werror)
arch := $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v2)
base_cflags := -std=c11 -O2 -g $(arch) $(warnings) -fvisibility=hidden -fno-math-errno -ffp-contract=off -D_GNU_SOURCE -DCPS_RUNTIME \
               -Iruntime -I. $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
link_flags := $(if $(SAN),-fsanitize=$(SAN))
foreign := $(patsubst -I%,-isystem %,$(pkg_cflags))

engine_sources := $(filter-out runtime/main.c,$(wildcard runtime/*/*.c)) $(wildcard shards/*.c)
plugin_names := $(notdir $(patsubst %/,%,$(dir $(wildcard plugins/*/*.c))))
plugin_names := $(sort $(plugin_names))

.DEFAULT_GOAL := all
.PHONY: all
all: $(BUILD)/copse plugins

# ---- one set of rules per flavour ---------------------------------------------------------------------------------------
define flavour_rules
$(1)_root := $(BUILD)/$(1)$(flavour_suffix)
$(1)_objects := $$(patsubst %.c,$$($(1)_root)/obj/%.o,$(engine_sources))
$$($(1)_root)/obj/%.o: %.c Makefile
	@mkdir -p $$(@D)
	$(CC) $(base_cflags) $(2) $(foreign) $(CFLAGS) -MMD -MP -c $$< -o $$@
$$($(1)_root)/libcopse.a: $$($(1)_objects)
	@rm -f $$@
	ar rcs $$@ $$^
$$($(1)_root)/copse: $$($(1)_root)/obj/runtime/main.o $$($(1)_root)/libcopse.a
	$(CC) $(link_flags) $$^ -o $$@ $(pkg_libs) $(LDFLAGS)
# Plugins see copse_objective.h and what it includes, and libc.
$$($(1)_root)/plugins/%.so: Makefile
	@mkdir -p $$(@D)
	$(CC) $(filter-out -DCPS_RUNTIME,$(base_cflags)) $(2) -fPIC -shared -Iruntime/plugin $(CFLAGS) -MMD -MP -MF $$(@:.so=.d) -MT $$@ \
	    $$(filter-out %_test.c,$$(wildcard plugins/$$*/*.c)) -o $$@ -Wl,-z,defs $(link_flags) -lm
$(foreach p,$(plugin_names),$$($(1)_root)/plugins/$(p).so: $(filter-out %_test.c,$(wildcard plugins/$(p)/*.c))
)
$$($(1)_root)/tests/%: $$($(1)_root)/obj/tests/%.o $$($(1)_root)/libcopse.a
	@mkdir -p $$(@D)
	$(CC) $(link_flags) $$< $$($(1)_root)/libcopse.a -o $$@ $(pkg_libs) -lcmocka $(LDFLAGS)
$$($(1)_root)/tests/vectors_%: $$($(1)_root)/obj/tests/vectors/vectors_%.o $$($(1)_root)/obj/tests/vectors/vectors.o \
                                $$($(1)_root)/libcopse.a
	@mkdir -p $$(@D)
	$(CC) $(link_flags) $$^ -o $$@ $(pkg_libs) $(LDFLAGS)
-include $$(shell find $$($(1)_root) -name '*.d' 2>/dev/null)
endef
$(eval $(call flavour_rules,float,))
$(eval $(call flavour_rules,double,-DCPS_REAL_DOUBLE))

.SECONDARY:

root := $(BUILD)/$(REAL)$(flavour_suffix)
.PHONY: plugins
plugins: $(patsubst %,$(root)/plugins/%.so,$(plugin_names))
$(BUILD)/copse: $(root)/copse
	ln -sf $(notdir $(root))/copse $@

# ---- tests --------------------------------------------------------------------------------------------------------------
unit_tests := $(patsubst %.c,%,$(wildcard tests/unit/*_test.c))
grad_tests := $(patsubst %.c,%,$(wildcard tests/grad/*_test.c))
.PHONY: unit
unit: $(patsubst %,$(root)/%,$(unit_tests))
	@tests/run.sh $^

# Runners of the golden vectors: build/tests/vectors_X in double, build/float/tests/vectors_X in float.
vectors_runners := $(patsubst tests/vectors/%.c,tests/%,$(wildcard tests/vectors/vectors_*.c))
.PHONY: vectors
vectors: $(patsubst %,$(BUILD)/%,$(vectors_runners)) $(patsubst %,$(float_root)/%,$(vectors_runners))
$(BUILD)/tests/vectors_%: $(double_root)/tests/vectors_%
	@mkdir -p $(@D)
	ln -sf ../$(notdir $(double_root))/tests/$(@F) $@

.PHONY: clean
clean:
	rm -rf $(BUILD)
