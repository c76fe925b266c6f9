# make demo      watch a bad disk heal in a guest
# make test      every check, as CI runs them
# make soak      what takes hours: every planted error, long torture and fuzzing
# make shell     the demo's guest, with a prompt
# make build     daemon and kernel module for this machine
# make install   put what was built in place (as root; DESTDIR and PREFIX are honoured)
# make install-dmfilemapd   the same for dmfilemapd, which a distribution may have as a package of its own
# make bench     what an I/O costs, in instructions, beside dm-linear
# make clean

PREFIX  ?= /usr
DESTDIR ?=
# The kernel that the module is built and installed for.
KVER    ?= $(shell uname -r)
KDIR    ?= /lib/modules/$(KVER)/build

out     := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
stage   := $(out)/stage
module  := $(out)/kmod/$(KVER)
rig     := $(CURDIR)/tests/rig
seed    := $(or $(SEED),$(shell date +%s))
release := $(out)/release

# The guest's kernels; known only after "setup".
guest    = $(shell $(rig)/make-guest.sh where)

export RIG_PAYLOAD := $(stage)

.PHONY: demo test soak shell bench build daemon dmfilemapd module install install-dmfilemapd stage setup toolchain clean
.DEFAULT_GOAL := build

demo: stage
	$(release)/rig demo

shell: stage
	$(release)/rig shell

test:
	$(CURDIR)/tests/run

# What is random is so by a seed that is printed; SEED=N repeats it.
soak: stage
	tests/kmod/fuzz.sh 900
	cargo run --release --locked --example soak -- --seeds 100000 --reached 100
	SEED=$(seed) tests/kmod/uml.sh
	tests/kmod/smp.sh 1200 $(seed)
	tests/planted/run
	set -e; for n in 0 1 2 3 4; do \
		PLACES=100 STARTS=60 KILLS=6 TORN=100 tests/durability/run $$(($(seed) + n)); \
	done
	set -e; for n in 0 1 2 3 4 5 6 7 8 9; do CUTS=50 tests/durability/cuts $$(($(seed) + n)); done
	RIG_SOAK=1 cargo test --workspace --test filemap --test dm -- --nocapture
	RIG_SOAK=1 cargo test --workspace --test root --test members -- --nocapture --test-threads=1
	RIG_SOAK=1 cargo test --workspace --test healing -- --nocapture cures_survive_power_cuts

bench: stage
	tests/bench/run

build: daemon module

daemon: toolchain
	cargo build --release --locked

dmfilemapd: toolchain
	cargo build --release --locked -p dmfilemapd

# Built in a copy, so that one tree serves any number of kernels.
module:
	mkdir -p $(module)
	cp -a -u kmod/. $(module)/
	$(MAKE) -C $(module) KDIR=$(KDIR)

# Installs what there is of some patterns.
put = $(if $(wildcard $2),install -D -m 644 -t $(DESTDIR)$1 $(wildcard $2))

# Builds what is not there yet, and only that: root may have no Rust.
install: $(if $(wildcard $(release)/remap-guardian),,daemon) $(if $(wildcard $(module)/dm_remap_v4_real.ko),,module)
	install -D -m 755 $(release)/remap-guardian $(DESTDIR)$(PREFIX)/sbin/remap-guardian
	install -D -m 644 -t $(DESTDIR)/lib/modules/$(KVER)/updates $(module)/dm_remap_v4_real.ko
	strip --strip-debug $(DESTDIR)/lib/modules/$(KVER)/updates/dm_remap_v4_real.ko
	install -D -m 755 kmod/check_dm_remap $(DESTDIR)$(PREFIX)/lib/nagios/plugins/check_dm_remap
	$(call put,/lib/systemd/system,systemd/*.service systemd/*.timer)
	$(call put,/lib/udev/rules.d,systemd/*.rules)
	$(foreach file,$(wildcard systemd/*.tmpfiles.conf),\
		install -D -m 644 $(file) $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/$(notdir $(file:.tmpfiles.conf=.conf));)
	$(call put,$(PREFIX)/lib/remap-guardian/policies,policies/*.toml)
	mkdir -p $(DESTDIR)$(PREFIX)/share/initramfs-tools $(DESTDIR)$(PREFIX)/lib/dracut/modules.d
	cp -r systemd/initramfs-tools/. $(DESTDIR)$(PREFIX)/share/initramfs-tools/
	cp -r systemd/dracut/. $(DESTDIR)$(PREFIX)/lib/dracut/modules.d/
	install -d -m 700 $(DESTDIR)/var/lib/remap-guardian
	$(if $(DESTDIR),,depmod $(KVER) && systemctl daemon-reload && udevadm control --reload && systemd-tmpfiles --create)

install-dmfilemapd: $(if $(wildcard $(release)/dmfilemapd),,dmfilemapd)
	install -D -m 755 $(release)/dmfilemapd $(DESTDIR)$(PREFIX)/sbin/dmfilemapd
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 dmfilemapd/dmfilemapd.8

# The product as "make install" leaves it, for every kernel of the guest; and dmfilemapd.
stage: setup toolchain
	cargo build --release -p remap-guardian -p rig -p dmfilemapd
	rm -rf $(stage)
	$(MAKE) --no-print-directory install-dmfilemapd DESTDIR=$(stage)
	set -e; for version in $$(ls $(guest)/kernels); do \
		$(MAKE) --no-print-directory module install DESTDIR=$(stage) \
			KVER=$$version KDIR=$(guest)/kernels/$$version/build; \
	done

setup:
	$(rig)/setup.sh

toolchain:
	@tests/check-toolchain

clean:
	rm -rf $(out)
