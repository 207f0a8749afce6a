# SPDX-License-Identifier: MIT
#
# From a fresh machine to the paper's figures: make reproduce. Everything that
# is made is in build/, the results in results/.

TESTBED ?= local
SCALE   ?= quick
ONLY    ?=
ACCEL   ?= auto
CONFIG  ?= vm
JOBS    ?= $(shell nproc)

BUILD       := $(CURDIR)/build
MEGABENCH   := $(BUILD)/venv/bin/megabench
# "vm"; "ssh" for real machines, "namespaces" for this one: no kernel of the virtual machine's.
KIND        := $(shell sed -n 's/^kind *= *"\([a-z]*\)".*/\1/p' harness/testbeds/$(TESTBED).toml 2>/dev/null)
EXPERIMENTS := $(or $(ONLY),$(basename $(notdir $(wildcard harness/experiments/*.toml))))
PYTEST      := $(BUILD)/venv/bin/python -m pytest -c harness/pyproject.toml
TESTS       := harness/tests
SUB          = @$(MAKE) --no-print-directory BUILD=$(BUILD) JOBS=$(JOBS) CONFIG=$(CONFIG) \
	LINUX_TARBALL=$(BUILD)/cache/linux-source.tar.xz -C

export ACCEL

MAKEFLAGS += --no-builtin-rules
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help reproduce test test-apps test-deploy test-kernel test-unit lint deps venv tree kernel lib apps \
	memcached nginx load generators plugin programs all report clean distclean

help: ## list the targets
	@echo 'make TARGET [TESTBED=local] [SCALE=quick|smoke|full] [ONLY=experiment]'
	@echo '            [ACCEL=auto|tcg|kvm] [CONFIG=vm|debug|...] [JOBS=n]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

reproduce: plan $(if $(filter ssh,$(KIND)),programs source,$(if $(filter namespaces,$(KIND)),programs,all)) ## from nothing to the report: install, build, run, draw
	@$(MEGABENCH) run --report --remove --testbed $(TESTBED) --scale $(SCALE) $(EXPERIMENTS)

.PHONY: plan
plan:
	@scripts/preflight.sh $(BUILD)
	@scripts/plan.sh $(BUILD) $(TESTBED) $(SCALE) $(ACCEL) $(EXPERIMENTS)

report: venv ## draw tables, figures and the report again, from raw results alone
	@$(MEGABENCH) report --testbed $(TESTBED) $(if $(filter command%,$(origin SCALE)),--scale $(SCALE))

all: deps kernel programs plugin ## build everything, run nothing

programs: venv lib apps memcached nginx load ## build all that runs on real machines, but the kernel

deps: ## install the Debian packages that are missing (scripts/packages.txt)
	@scripts/preflight.sh $(BUILD)
	@scripts/packages.sh ensure python build kernel guest

venv: ## make the locked Python environment, build/venv
	@scripts/packages.sh ensure python
	@scripts/venv.sh $(BUILD)/venv $(CURDIR)/harness

tree: source ## make the patched kernel source tree, build/linux
	$(SUB) kernel-patch tree

kernel: source ## build the MegaPipe kernel of CONFIG, build/kernel-CONFIG
	$(SUB) kernel-patch build

.PHONY: source
source:
	@scripts/packages.sh ensure python build kernel $(if $(filter ssh,$(KIND)),deb)
	@scripts/kernel-source.sh $(BUILD)/cache >/dev/null

lib: ## build libmegapipe, build/lib
	@scripts/packages.sh ensure build
	$(SUB) libmegapipe

apps: lib ## build the servers, build/bin
	$(SUB) apps/pingpong

memcached: lib ## build memcached, untouched and on libmegapipe, build/bin
	@scripts/packages.sh ensure python build memcached
	@"$$(scripts/python.sh)" scripts/app_source.py memcached --versions versions.toml \
		--cache $(BUILD)/cache >/dev/null
	$(SUB) apps/memcached

nginx: lib ## build nginx, untouched and on libmegapipe, build/bin
	@scripts/packages.sh ensure python build nginx
	@"$$(scripts/python.sh)" scripts/app_source.py nginx --versions versions.toml \
		--cache $(BUILD)/cache >/dev/null
	$(SUB) apps/nginx

load: ## build the load generator, build/bin/megabench-load
	$(SUB) harness/load

generators: load memcached nginx ## hold our load generator against memaslap, wrk and ab (5 minutes)
	@scripts/packages.sh ensure generators
	@scripts/generators.py

plugin: ## build the emulator's instruction counter, build/bin/libinsn.so
	$(SUB) harness/plugin

test: all ## build everything, the debug kernel too, and run all tests (an hour on 2 cores)
	@scripts/packages.sh ensure test
	@$(MAKE) --no-print-directory kernel CONFIG=debug
	@MEGAPIPE_KERNELS="vm debug" $(PYTEST) $(TESTS)

STAGES ?=
test-kernel: all ## all proof of the kernel side, hours of it: STAGES="ordinary debug kcsan ..."
	@scripts/test-kernel.sh $(BUILD) $(JOBS) $(STAGES)

test-apps: all ## test the ported applications, here and in the virtual machine (hours)
	@scripts/packages.sh ensure options
	$(SUB) apps/memcached asan check
	$(SUB) apps/nginx asan check
	@$(MAKE) --no-print-directory kernel CONFIG=debug
	@TEST_APPS=all $(PYTEST) $(TESTS)/test_memcached.py $(TESTS)/test_nginx.py
	@MEGABENCH_TESTBED=debug $(PYTEST) $(TESTS)/test_memcached.py -k on_megapipe
	@TEST_APPS=all MEGABENCH_TESTBED=debug $(PYTEST) $(TESTS)/test_nginx.py \
		-k 'on_megapipe and default'
	@TEST_APPS=all $(PYTEST) $(TESTS)/test_memcached_upstream.py; status=$$?; \
		cat $(BUILD)/test-apps/memcached-upstream.md; exit $$status

test-deploy: all ## install, boot, verify and remove the kernel on a server with a disk of its own (hours)
	@scripts/packages.sh ensure deb lab
	@TEST_DEPLOY=$(or $(PACKAGES),1) $(PYTEST) $(TESTS)/test_deploy.py $(TESTS)/test_lab_paper.py

test-unit: venv ## run the tests that need no virtual machine, root or network
	@$(PYTEST) -m 'not vm and not lab and not deploy' $(TESTS)

lint: venv tree ## check style: ruff, mypy, shellcheck, checkpatch, the makefiles
	@scripts/packages.sh ensure lint
	@scripts/lint.sh $(BUILD)

clean: ## remove all that was made; downloads and compiler cache stay
	@scripts/clean.sh $(BUILD) cache

distclean: ## remove downloads and caches too
	@scripts/clean.sh $(BUILD)
