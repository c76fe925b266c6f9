# Builds what these tests need, and boots User Mode Linux with it. Sourced in the root of the tree.
# PROGRAM: a remap-guardian, if it is not this tree's. KMOD: the module's source, if it is not this tree's.
here=$PWD/tests/durability
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/durability
mkdir -p "$out"
# With a test among what is built, dependencies are as the unit tests have them, and nothing is compiled a second time.
cargo build -q --locked --workspace --bins --test cli
tree=$(tests/kmod/kernel.sh uml)
module=$(tests/kmod/uml-module.sh)
make -s -C tests/kmod out/iotool

# What process 1 says goes to $console.
boot() { # <init> <seed> [<argument of the kernel>…]
	timeout -k 5 "${UML_TIMEOUT:-1800}" "$tree/linux" mem=512M rootfstype=hostfs rootflags=/ ro panic=-1 \
		console=tty0 con0=null,fd:1 con=null init="$here/$1" RG_HERE="$here" \
		RG_IOTOOL="$PWD/tests/kmod/out/iotool" RG_MODULE="$module/dm_remap_v4_real.ko" RG_POLICIES="$PWD/policies" \
		RG_PROGRAM="${PROGRAM:-$target/debug/remap-guardian}" RG_TOOL="$target/debug/durability" RG_SEED="$2" "${@:3}" \
		</dev/null >"$console" 2>&1 || true
}

# The lines of the console that are results, and what the kernel complained of.
results() {
	local complaints
	grep -aE '^(ok|FAIL) ' "$console" || true
	grep -aq '^END' "$console" || echo "FAIL the test kernel did not finish, see $console"
	complaints=$(awk -f tests/kmod/uml-complaints.awk "$console")
	[ -z "$complaints" ] || printf '%s\nFAIL the kernel complained, see %s\n' "$complaints" "$console"
}

# Counts the results in a file; fails unless there are some and all are good.
verdict() { # <file>
	local passed failed
	passed=$(grep -c '^ok ' "$1" || true)
	failed=$(grep -c '^FAIL ' "$1" || true)
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
