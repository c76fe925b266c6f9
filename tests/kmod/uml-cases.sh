# shellcheck shell=dash
# SPDX-License-Identifier: GPL-2.0-only
# The cases. Each runs in a subshell with -e, on fresh devices named r (the
# target), m (its main, where a case needs bad sectors) and x (anything else).

io=$RG_TESTS/out/iotool
LEN=65536
R=/dev/mapper/r
MAIN=/dev/ram0
NULLB=/sys/kernel/config/nullb
SPARE=/dev/ram1
SYS=/sys/kernel/dm_remap
MODULE=$RG_TESTS/out/uml-kmod/dm_remap_v4_real.ko
KEY=000102030405060708090a0b0c0d0e0f
TOKEN=00000000000000a1

die() {
	echo "$*"
	exit 1
}

# want <expected output> <command...>
want() {
	expected=$1
	shift
	got=$("$@" 2>&1) || true
	[ "$got" = "$expected" ] || die "$*: got '$got', want '$expected'"
}

# refused <part of the error text> <message...>
refused() {
	text=$1
	shift
	if got=$(dmsetup message r 0 "$@" 2>&1); then
		die "accepted: $*"
	fi
	case $got in *"$text"*) ;; *) die "$*: got '$got', want '$text'" ;; esac
}

# refusedas <part of the error text> <the owner's message...>
refusedas() {
	text=$1
	shift
	refused "$text" "as $INSTANCE $TOKEN $*"
}

until_true() {
	for _ in $(seq 400); do
		if eval "$1"; then
			return 0
		fi
		sleep 0.05
	done
	die "never true: $1 (status $(dmsetup status r))"
}

field() { dmsetup status r | cut -d' ' -f"$1"; }
msg() { dmsetup message r 0 "$*"; }
folder() { echo "$SYS/dm-$(dmsetup info -c --noheadings -o minor "${1:-r}")"; }
# logged <text>: at the end of the kernel's log
logged() { dmesg | tail -3 | grep -qF -- "$1" || die "not logged: $1, but: $(dmesg | tail -3)"; }
# has <text> <command...>: in its output
has() {
	text=$1
	shift
	got=$("$@" 2>&1) || true
	case $got in *"$text"*) ;; *) die "$*: got '$got', want '$text'" ;; esac
}
own() {
	INSTANCE=$(field 8)
	msg own "$INSTANCE" "$TOKEN"
}
as() { dmsetup message r 0 "as $INSTANCE $TOKEN $*"; }
now_ms() { date +%s%3N; }

plain() { dmsetup create r --table "0 $LEN dm-remap-v4 $MAIN $SPARE"; }
managed() {
	dmsetup create r --table "0 $LEN dm-remap-v4 ${M:-$MAIN} ${S:-$SPARE} $(echo "$*" | wc -w | xargs expr 1 +) managed $*"
	own
}

# bad_main [<n>]: a main of whose sectors <n> (8) fail, from 8000 on
bad_main() {
	dmsetup create m <<-T
		0 8000 linear $MAIN 0
		8000 ${1:-8} error
		$((8000 + ${1:-8})) $((LEN - 8000 - ${1:-8})) linear $MAIN $((8000 + ${1:-8}))
	T
	M=/dev/mapper/m
}

# They do not fail any more.
main_heals() {
	dmsetup suspend --noflush m
	dmsetup load m --table "0 $LEN linear $MAIN 0"
	dmsetup resume m
}

# null_disk <n> <attribute>=<value>...: /dev/nullb<n>, 32 MiB, which can be slow and fail
null_disk() {
	mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
	d=$NULLB/nullb$1
	mkdir "$d"
	for a in index="$1" size=32 memory_backed=1 queue_mode=2 "$2" "${3:-power=1}" "${4:-power=1}" power=1; do
		[ "$a" = power=1 ] && [ "$(cat "$d/power")" = 1 ] || echo "${a#*=}" >"$d/${a%%=*}"
	done
}

# fenced <start> <len> <ms>: a sealed fence, its id in $fence
fenced() {
	drained "$@"
	as seal "$fence"
}
drained() {
	fence=$(as fence "$@" | cut -d' ' -f2)
	until_true 'msg fences | grep -q "fence $fence .* drained"'
}

cleanup() {
	dmsetup remove --retry r 2>/dev/null || dmsetup remove --force r 2>/dev/null || true
	for d in 0 1 2; do
		delpart /dev/loop$d 1 2>/dev/null || true
		losetup -d /dev/loop$d 2>/dev/null || true
	done
	for d in x m s $(dmsetup ls | grep -o '^many[0-9]*'); do
		dmsetup remove --retry "$d" 2>/dev/null || true
	done
	for d in "$NULLB"/nullb?; do
		rmdir "$d" 2>/dev/null || true
	done
	[ -e /sys/module/dm_remap_v4_real ] || insmod "$MODULE"
}

case_create_and_table() {
	dmsetup create r --table "0 $LEN dm-remap-v4 /dev/ram0 /dev/ram1 9 managed small_spare reserve 8 16 hold 700 spare /dev/ram2"
	want "0 $LEN dm-remap-v4 1:0 1:1 9 managed small_spare reserve 8 16 hold 700 spare 1:2" dmsetup table r
	t=$(dmsetup table r)
	dmsetup load r --table "$t"
	dmsetup resume r
	want "$t" dmsetup table r
	want "3 dependencies	: (1, 2) (1, 1) (1, 0)" dmsetup deps r
}

case_bad_tables() {
	for args in "" "/dev/ram0" "/dev/nothing /dev/ram1" "/dev/ram0 /dev/ram1 1" "/dev/ram0 /dev/ram1 1 bogus" \
		"/dev/ram0 /dev/ram1 2 hold 100" "/dev/ram0 /dev/ram1 3 managed hold 15001" \
		"/dev/ram0 /dev/ram1 3 managed hold -1" "/dev/ram0 /dev/ram1 2 managed closed"; do
		if dmsetup create r --table "0 $LEN dm-remap-v4 $args" 2>/dev/null; then
			die "accepted: $args"
		fi
	done
	dmsetup create x --table "0 800 linear /dev/ram1 0"
	if dmsetup create r --table "0 $LEN dm-remap-v4 $MAIN /dev/mapper/x" 2>/dev/null; then
		die "small spare accepted"
	fi
	dmsetup create r --table "0 $LEN dm-remap-v4 $MAIN /dev/mapper/x 1 small_spare"
}

# A table that is refused, with a line in the log that names the word.
bad_table() {
	if dmsetup create r --table "0 $LEN dm-remap-v4 $2" 2>/dev/null; then die "accepted: $2"; fi
	dmesg | tail -4 | grep -qF "remap-v4: $1" || die "$2: not logged: $1, but: $(dmesg | tail -4)"
}

case_bad_table_words_are_logged() {
	bad_table "Device not found: '/dev/nothing'" "/dev/nothing /dev/ram1"
	bad_table "Device not found: '/dev/nospare'" "/dev/ram0 /dev/nospare"
	bad_table "Invalid argument count: 'x'" "/dev/ram0 /dev/ram1 x"
	bad_table "Invalid argument count: '3'" "/dev/ram0 /dev/ram1 3 managed small_spare"
	bad_table "Invalid argument count: '18446744073709551617'" "/dev/ram0 /dev/ram1 18446744073709551617 managed"
	bad_table "Unknown option: 'bogus'" "/dev/ram0 /dev/ram1 1 bogus"
	bad_table "Unknown option: 'xxxxxxxx" "/dev/ram0 /dev/ram1 1 $(printf 'x%.0s' $(seq 900))"
	bad_table "Option without its value: 'hold'" "/dev/ram0 /dev/ram1 2 managed hold"
	bad_table "Option without its value: 'reserve'" "/dev/ram0 /dev/ram1 3 managed reserve 1"
	bad_table "Option without its value: 'spare'" "/dev/ram0 /dev/ram1 1 spare"
	bad_table "Invalid option value: '15001'" "/dev/ram0 /dev/ram1 3 managed hold 15001"
	bad_table "Invalid option value: '0'" "/dev/ram0 /dev/ram1 3 managed closed 0"
	bad_table "Invalid option value: '600001'" "/dev/ram0 /dev/ram1 3 managed closed 600001"
	bad_table "Invalid option value: '8x'" "/dev/ram0 /dev/ram1 3 reserve 1 8x"
	bad_table "Invalid option value: '18446744073709551616'" "/dev/ram0 /dev/ram1 3 reserve 18446744073709551616 8"
	bad_table "Device not found: '/dev/nospare'" "/dev/ram0 /dev/ram1 2 spare /dev/nospare"
	bad_table "Spare given twice: '/dev/ram1'" "/dev/ram0 /dev/ram1 2 spare /dev/ram1"
	bad_table "Option given twice: 'managed'" "/dev/ram0 /dev/ram1 2 managed managed"
	bad_table "Option given twice: 'hold'" "/dev/ram0 /dev/ram1 5 managed hold 1 hold 2"
	bad_table "Option needs managed: 'closed'" "/dev/ram0 /dev/ram1 2 closed 100"
	bad_table "Option needs managed: 'hold'" "/dev/ram0 /dev/ram1 2 hold 100"
	dmsetup create x --table "0 800 linear /dev/ram1 0"
	bad_table "No space left: spare is below 5% of main: '$(dmsetup info -c --noheadings -o major,minor --separator : x)'" \
		"$MAIN /dev/mapper/x"
	bad_table "Main device is smaller than the target: '$(dmsetup info -c --noheadings -o major,minor --separator : x)'" \
		"/dev/mapper/x /dev/ram1"
}

case_ranges() {
	plain
	want ok $io write $MAIN 0 $LEN 1
	want ok $io write $SPARE 0 $LEN 2
	want "dm-remap v4.0 real: Added remap: 1001 → 5003 (length: 7)" msg add_remap 1001 5003 7
	msg add_remap 1013 6001 100 >/dev/null
	msg add_remap 1113 3000 1 >/dev/null
	# Reads before, inside, across and behind.
	want ok $io check $R 900 101 1
	want ok $io check $R 1001 7 2 5003
	want ok $io check $R 1008 5 1
	want ok $io check $R 1013 100 2 6001
	want ok $io check $R 1113 1 2 3000
	want ok $io check $R 1114 500 1
	# One write over all of them; then each place has its part.
	want ok $io write $R 900 1000 3
	want ok $io check $R 900 1000 3
	want ok $io check $MAIN 900 101 3
	want ok $io check $MAIN 1001 7 1
	want ok $io check $SPARE 5003 7 3 1001
	want ok $io check $MAIN 1008 5 3
	want ok $io check $SPARE 6001 100 3 1013
	want ok $io check $SPARE 3000 1 3 1113
	want ok $io check $MAIN 1013 101 1
	want ok $io check $SPARE 5010 900 2
	want ok $io check $SPARE 5000 3 2
	want ok $io check $MAIN 1900 1000 1
	want 3 field 4
}

case_torture_ranges() {
	plain
	i=0
	while [ $i -lt 40 ]; do
		msg add_remap $((i * 37 + i % 7)) $((i * 31)) $((1 + i % 30)) >/dev/null
		i=$((i + 1))
	done
	want ok $io torture $R 4096 1500 7
}

case_bio_sizes() {
	plain
	msg add_remap 2050 0 1000 >/dev/null
	for n in 1 8 9 64 127 128 512 1024 2048; do
		want ok $io write $R 2000 $n $n
		want ok $io check $R 2000 $n $n
	done
}

case_refusals() {
	plain
	msg add_remap 1000 5000 100 >/dev/null
	refused "File exists" add_remap 1050 9000 10
	refused "File exists" add_remap 950 9000 51
	refused "File exists" add_remap 2000 5099 1
	refused "File exists" add_remap 999 9000 200
	msg add_remap 1000 7000 50 >/dev/null
	msg add_remap 1050 5000 10 >/dev/null
	refused "out of range" add_remap $LEN 0 1
	refused "out of range" add_remap 0 $LEN 1
	refused "out of range" add_remap 18446744073709551615 0 1
	refused "out of range" add_remap 18446744073709551616 0 1
	refused "out of range" add_remap 0 18446744073709551600 100
	refused "out of range" add_remap 20000 20000 4294967296
	refused "out of range" add_remap 20000 20000 0
	for bad in "" -1 +1 0x10 1a " " 1.0; do
		refused "Invalid argument" "add_remap 20000 20000 ${bad:-x}"
	done
	refused "Invalid argument" add_remap 1 2
	refused "Invalid argument" add_remap 20000 20000 1 0 5
	refused "Invalid argument" nonsense
	refused "No such file" remove_remap 1001
	refused "not supported" own 0000000000000000 0000000000000000
	refused "not supported" fence 0 8 1000
	want 2 field 4
	want "dm-remap v4.0 real: Removed remap: 1000 (was mapping to 7000)" msg remove_remap 1000
	want "dm-remap v4.0 real: Cleared all remaps (1 entries removed)" msg clear_all
	want 0 field 4
}

case_refusals_are_logged() {
	plain
	msg add_remap 1000 5000 100 >/dev/null
	# <code> <errno> <reason> <word> <message>
	while IFS='|' read -r numbers reason word text; do
		if dmsetup message r 0 "$text" 2>/dev/null; then die "accepted: $text"; fi
		logged "dm-remap v4.0 real: ${text%% *} failed: $reason${word:+: '$word'} ($numbers)"
	done <<-E
		code -1, errno -22|Unknown command||frobnicate
		code -1, errno -22|Unknown command||STATUS
		code -2, errno -22|Invalid argument|x|add_remap x 0 1
		code -2, errno -22|Invalid argument|0x5|add_remap 5 0x5 1
		code -2, errno -22|Invalid argument|-1|add_remap 5 5 -1
		code -2, errno -22|Invalid argument|zero|add_remap 5 5 1 zero
		code -2, errno -22|Invalid argument|fence=1|add_remap 5 5 1 fence=1
		code -2, errno -22|Invalid argument count||add_remap 5 5
		code -2, errno -22|Invalid argument count|9|add_remap 5 5 1 0 9
		code -2, errno -34|Invalid sector range|$LEN|add_remap $LEN 0 1
		code -2, errno -34|Invalid sector range|18446744073709551616|add_remap 18446744073709551616 0 1
		code -2, errno -34|Invalid sector range|18446744073709551616|add_remap 0 18446744073709551616 1
		code -2, errno -34|Invalid sector range|4294967296|add_remap 0 0 4294967296
		code -2, errno -34|Invalid sector range|0|add_remap 5 6 0
		code -2, errno -34|Invalid sector range|3|add_remap $((LEN - 2)) 0 3
		code -2, errno -34|Invalid sector range|$LEN|add_remap 0 $LEN 1
		code -2, errno -34|Invalid sector range|4|add_remap 0 $((LEN - 3)) 4
		code -2, errno -19|Invalid sector range|7|add_remap 0 0 1 7
		code -2, errno -17|Overlaps an existing remap||add_remap 1050 9000 1
		code -2, errno -17|Overlaps an existing remap||add_remap 2000 5099 1
		code -2, errno -2|Remap not found||remove_remap 1001
		code -2, errno -34|Invalid sector|$LEN|remove_remap $LEN
		code -2, errno -22|Invalid argument|1.5|remove_remap 1.5
		code -2, errno -22|Invalid argument count||remove_remap
		code -2, errno -22|Invalid argument count|2|remove_remap 1 2
		code -2, errno -22|Invalid argument count|now|clear_all now
		code -2, errno -22|Invalid argument count|now|stats now
		code -2, errno -22|Invalid argument count|all|clear_stats all
		code -2, errno -22|Invalid argument count||errors
		code -2, errno -22|Invalid argument|one|errors one
		code -2, errno -34|Invalid argument|99999999999999999999|dump 99999999999999999999
		code -5, errno -95|Operation not supported||fence 0 8 1000
		code -5, errno -95|Operation not supported||own 0 0
		code -5, errno -95|Operation not supported||as 0 0 status
	E
	# Whatever a word is made of, it is one line, and not a long one.
	dmsetup message r 0 "add_remap $(printf 'x%.0s' $(seq 1000)) 1 1" 2>/dev/null && die accepted
	logged "failed: Invalid argument: '$(printf 'x%.0s' $(seq 64))' (code"
	dmsetup message r 0 "$(printf 'a\033[2Jb\1c') 1" 2>/dev/null && die accepted
	logged 'real: a\e[2Jb\001c failed: Unknown command'
	want 1 field 4
}

case_managed_refusals_are_not_logged() {
	managed hold 100
	n=$(dmesg | wc -l)
	for m in frobnicate "add_remap 1 1 1" "lease x" "fence 0 0 0" "remove_remap 99999999" "own x y" status; do
		as "$m" 2>/dev/null && die "accepted: $m"
		if [ "$m" != status ]; then dmsetup message r 0 "$m" 2>/dev/null && die "accepted: $m"; fi
	done
	# Those of the core say no more than that there was one.
	[ "$(dmesg | tail -n +$((n + 1)) | grep -c "dm-remap v4.0")" = 0 ] || die "logged: $(dmesg | tail -3)"
}

case_lookup_time() {
	plain
	has "Average lookup time: 0.000 μs" msg stats
	# The first lookup of each CPU is timed.
	want ok $io write $R 0 8 1
	msg stats >/run/stats
	grep -Eq 'Average lookup time: [0-9]+\.[0-9]{3} μs' /run/stats || die "$(cat /run/stats)"
	if grep -q 'time: 0\.000' /run/stats; then die "took no time"; fi
	time=$(grep Average /run/stats)
	# None since then: the average of all still holds.
	want ok $io write $R 0 8 1
	has "$time" msg stats
	msg clear_stats >/dev/null
	has "$time" msg stats
}

case_health() {
	bad_main
	dmsetup create r --table "0 $LEN dm-remap-v4 $M $SPARE"
	has "Last error: never" msg health
	want EIO $io read $R 8000 8
	has "Health score: 95/100
  Error rate (last min): 100.0%
  Max consecutive errors: 1" msg health
	has "Trend: STABLE" msg health
	msg health | grep -Eq "Last error: [0-9] seconds ago" || die "$(msg health)"
	for i in 1 2 3; do
		want ok $io read $R 0 8
	done
	has "Error rate (last min): 25.0%" msg health
	# In a row.
	want EIO $io read $R 8000 8
	has "Health score: 90/100" msg health
	want EIO $io write $R 8000 8 1
	has "Health score: 75/100
  Error rate (last min): 50.0%
  Max consecutive errors: 2" msg health
	has "Trend: WARNING" msg health
	want ok $io read $R 0 8
	want EIO $io read $R 8000 8
	want EIO $io read $R 8000 8
	has "Health score: 65/100" msg health
	has "Max consecutive errors: 2" msg health
	has "Trend: CRITICAL" msg health
	sleep 2
	msg health | grep -Eq "Last error: ([2-9]|[1-9][0-9]) seconds ago" || die "$(msg health)"
	# Statistics have nothing to do with it.
	msg clear_stats >/dev/null
	has "Health score: 65/100" msg health
}

case_sysfs() {
	bad_main
	for f in total_remaps active_remaps hash_resizes io_read_total io_write_total io_errors; do
		cat $SYS/$f >/run/$f
	done
	want 100 cat $SYS/health_score
	want 0 cat $SYS/active_remaps
	dmsetup create r --table "0 $LEN dm-remap-v4 $M $SPARE"
	dmsetup create x --table "0 4096 dm-remap-v4 /dev/ram2 /dev/ram3"
	r=$(folder r) x=$(folder x)
	msg add_remap 100 200 8 >/dev/null
	dmsetup message x 0 "add_remap 0 8 1" >/dev/null
	dmsetup message x 0 "add_remap 1 9 1" >/dev/null
	want ok $io write $R 0 8 1
	want ok $io read $R 0 8
	want ok $io write /dev/mapper/x 0 8 1
	want EIO $io read $R 8000 8
	want EIO $io read $R 8000 8
	want "1 2 3" echo "$(cat "$r/active_remaps") $(cat "$x/active_remaps") $(cat $SYS/active_remaps)"
	want "80 100 80" echo "$(cat "$r/health_score") $(cat "$x/health_score") $(cat $SYS/health_score)"
	want "2 0 $(($(cat /run/io_errors) + 2))" echo "$(cat "$r/io_errors") $(cat "$x/io_errors") $(cat $SYS/io_errors)"
	want 1 cat "$r/io_write_total"
	want 3 cat "$r/io_read_total"
	want 0 cat "$x/io_read_total"
	writes=$(cat $SYS/io_write_total)
	[ "$writes" -eq $(($(cat /run/io_write_total) + 1 + $(cat "$x/io_write_total"))) ] || die "$writes writes"
	# No message resets them.
	msg stats >/dev/null
	msg clear_stats >/dev/null
	want 3 cat "$r/io_read_total"
	# What a device counted stays when it goes; what it has does not.
	exec 3<"$r/io_errors" 4<"$r/all_stats"
	dmsetup remove r
	[ ! -e "$r" ] || die "$r is still there"
	has "No such device" cat <&3
	has "No such device" cat <&4
	exec 3<&- 4<&-
	want "$writes" cat $SYS/io_write_total
	want $(($(cat /run/io_errors) + 2)) cat $SYS/io_errors
	want "2 100" echo "$(cat $SYS/active_remaps) $(cat $SYS/health_score)"
	# A table of another kind ends the device's folder, and one of ours makes a new one.
	dmsetup load x --table "0 4096 zero"
	dmsetup resume x
	[ ! -e "$x" ] || die "$x is still there"
	dmsetup load x --table "0 4096 dm-remap-v4 /dev/ram2 /dev/ram3"
	want 0 cat "$x/active_remaps"
	dmsetup clear x
	[ ! -e "$x" ] || die "$x is still there"
	for f in "$SYS"/*; do
		if echo 1 2>/dev/null >"$f"; then die "$f was written"; fi
	done
}

samples() { awk -f "$RG_TESTS/prometheus.awk" "$1"; }

case_all_stats() {
	want 0 samples $SYS/all_stats
	plain
	want 7 samples $SYS/all_stats
	want 7 samples "$(folder)/all_stats"
	msg add_remap 100 200 8 >/dev/null
	dm=$(basename "$(folder)")
	grep -Eq "^dm_remap_active_remaps\\{device=\"$dm\"\\} +1\$" $SYS/all_stats || die "$(cat $SYS/all_stats)"
	for name in remaps_total hash_resizes_total io_read_total io_write_total io_errors_total health_score; do
		grep -q "^dm_remap_$name{device=\"$dm\"}" $SYS/all_stats || die "no $name"
	done
	# More than a page, in reads of all sizes.
	for i in $(seq 14); do
		dmsetup create "many$i" --table "0 2048 dm-remap-v4 /dev/ram2 /dev/ram3"
	done
	for size in 1 1000 4096 100000; do
		dd if=$SYS/all_stats of=/run/all bs=$size 2>/dev/null
		want $((7 * 15)) samples /run/all
		[ "$(wc -c </run/all)" -gt 5000 ] || die "only $(wc -c </run/all) bytes"
		[ "$(tail -c 1 /run/all | od -An -c | tr -d ' ')" = '\n' ] || die "no last line end"
	done
	want 7 samples "$(folder)/all_stats"
	for i in $(seq 14); do
		dmsetup remove "many$i"
	done
}

case_sysfs_readers() {
	# Devices and the module come and go under readers.
	for n in 1 2; do
		while [ ! -e /run/enough ]; do
			cat $SYS/* $SYS/*/* >/dev/null 2>&1 || true
		done &
	done
	for i in $(seq 8); do
		plain
		dmsetup create x --table "0 4096 dm-remap-v4 /dev/ram2 /dev/ram3"
		$io write $R 0 8 1 >/dev/null
		dmsetup remove r
		dmsetup remove x
	done
	exec 3<$SYS/all_stats 4<$SYS/health_score
	rmmod dm_remap_v4_real
	has "No such device" cat <&3
	has "No such device" cat <&4
	exec 3<&- 4<&-
	insmod "$MODULE"
	plain
	touch /run/enough
	wait
	rm /run/enough
	want 7 samples $SYS/all_stats
}

case_module_parameters() {
	P=/sys/module/dm_remap_v4_real/parameters
	want 60 cat $P/gc_interval
	want N cat $P/debug
	rmmod dm_remap_v4_real
	for bad in 0 86401 -1 x 1x 99999999999 ''; do
		if insmod "$MODULE" gc_interval="$bad" 2>/dev/null; then die "loaded with gc_interval=$bad"; fi
		logged "invalid for parameter \`gc_interval'"
	done
	for bad in 0 32 65 100 33554432 -64 x ''; do
		if insmod "$MODULE" initial_hash_size="$bad" 2>/dev/null; then die "loaded with initial_hash_size=$bad"; fi
	done
	insmod "$MODULE" gc_interval=1 debug=1 initial_hash_size=256
	want 256 cat $P/initial_hash_size
	want 1 cat $P/gc_interval
	want Y cat $P/debug
	plain
	msg status | grep -q "Hash table size: 256" || die "$(msg status)"
	msg add_remap 0 0 8 >/dev/null
	msg status | grep -q "Hash table size: 256" || die "adding shrank it: $(msg status)"
	msg remove_remap 0 >/dev/null
	msg status | grep -q "Hash table size: 128" || die "$(msg status)"
	echo 64 >$P/initial_hash_size
	for bad in 0 86401 -1 x; do
		if echo "$bad" 2>/dev/null >$P/gc_interval; then die "took $bad"; fi
	done
	want 1 cat $P/gc_interval
	for good in 86400 2 60; do
		echo $good >$P/gc_interval
		want $good cat $P/gc_interval
	done
	echo 0 >$P/debug
}

case_replies() {
	plain
	msg help | grep -q "remove_remap <main_sector>"
	msg status | grep -q "Main device: /dev/ram0 (sectors: 65536)"
	$io write $R 0 8 1 >/dev/null
	msg stats | grep -q "Write operations:    [1-9]"
	msg stats | grep -q "Write operations:    0"
	$io write $R 0 8 1 >/dev/null
	want "dm-remap v4.0 real: Statistics cleared" msg clear_stats
	msg stats | grep -q "Write operations:    0"
	msg health | grep -q "Health score: 100/100"
	dmesg | grep -q "dm-remap v4.0 real: Health Status:"
	want "errors 1 1" msg errors 0
	want "dump 0 0000000000000000
end" msg dump 0
	want end msg fences
}

case_table_start() {
	dmsetup create r <<-T
		0 1000 linear /dev/ram2 0
		1000 20000 dm-remap-v4 $MAIN $SPARE
	T
	dmsetup message r 1000 "add_remap 10 500 5" >/dev/null
	want ok $io write $MAIN 0 2000 1
	want ok $io write $R 1000 100 2
	want ok $io check $MAIN 0 10 2 1000
	want ok $io check $SPARE 500 5 2 1010
	want ok $io check $MAIN 15 85 2 1015
	want ok $io check $MAIN 10 5 1
}

case_hold_then_remap() {
	bad_main
	managed hold 15000
	want ok $io write $SPARE 0 $LEN 9
	as lease 30000
	$io write $R 7990 64 5 >/run/w &
	w=$!
	until_true '[ $(field 10) = 1 ]'
	msg errors 0 | grep -q "e 1 held write main 8000 8000 8 ioerr [0-9]* -"
	[ "$(msg errors 0 | wc -l)" = 2 ]
	refused "not permitted" add_remap 8000 96 8
	fence=$(as fence 8000 8 15000 | cut -d' ' -f2)
	until_true 'msg fences | grep -q "fence $fence 8000 8 drained"'
	if as add_remap 8000 96 8 0 fence="$fence" 2>/dev/null; then die "added under an unsealed fence"; fi
	as seal "$fence"
	want ok $io write $SPARE 96 8 77
	as add_remap 8000 96 8 0 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want ok cat /run/w
	want ok $io check $R 7990 64 5
	want ok $io check $SPARE 96 8 5 8000
	want ok $io check $SPARE 104 100 9
	want 0 field 10
	want 0 field 11
	want 1 field 4
	msg errors 2 | grep -q "e 2 healed write spare0 8000 96 8 other"
	want end msg fences
}

case_hold_expires() {
	bad_main
	managed hold 1000
	as lease 30000
	t0=$(now_ms)
	want EIO $io write $R 8000 8 5
	t=$(($(now_ms) - t0))
	[ $t -ge 900 ] && [ $t -lt 15000 ] || die "took $t ms"
	msg errors 0 | grep -q "expired write main 8000"
	want EIO $io read $R 8000 8
	want 0 field 10
}

case_narrowing_is_bounded() {
	# 40 good blocks that take their time come before the bad one.
	dmsetup create m <<-T
		0 8000 delay $MAIN 0 0 $MAIN 0 700
		8000 8 error
		8008 $((LEN - 8008)) linear $MAIN 8008
	T
	M=/dev/mapper/m
	managed hold 1500
	as lease 30000
	t0=$(now_ms)
	want EIO $io write $R 7680 328 5
	t=$(($(now_ms) - t0))
	[ $t -lt 20000 ] || die "took $t ms"
	msg errors 0 | grep -q "failed write main"
}

case_no_lease_no_hold() {
	bad_main
	managed hold 15000
	t0=$(now_ms)
	want EIO $io write $R 8000 8 5
	[ $(($(now_ms) - t0)) -lt 10000 ] || die "was held without a lease"
	as lease 700
	want EIO $io write $R 8000 8 5
	[ $(($(now_ms) - t0)) -lt 14000 ] || die "was held beyond the lease"
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	as lease 0
	wait $w || true
	want EIO cat /run/w
}

case_release_and_retry() {
	bad_main
	managed hold 8000
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	want 0 as release 0 8000
	want 1 as release 8007 1
	wait $w || true
	want EIO cat /run/w
	msg errors 0 | grep -q "released write main 8000"

	$io write $R 7900 200 6 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	main_heals
	want 1 as retry 8000 8
	wait $w || die "write: $(cat /run/w)"
	want ok $io check $R 7900 200 6
	msg errors 0 | grep -q "healed write main 8000 8000 8"
}

# held_read <sector> <count> <seed>: a read that meets the bad sectors and waits, checked when it ends; its process in $w
held_read() {
	as lease 30000 reads
	$io check $R "$@" >/run/r & w=$!
	until_true '[ $(field 10) = 1 ]'
}

case_held_read_is_remapped() {
	want ok $io write $MAIN 7990 64 5
	bad_main
	managed hold 15000
	held_read 7990 64 5
	msg errors 0 | grep -q "e 1 held read main 8000 8000 8 ioerr [0-9]* -"
	dd if=$MAIN of=$SPARE bs=512 skip=8000 seek=96 count=8 conv=fsync 2>/dev/null
	fenced 8000 8 20000
	as add_remap 8000 96 8 0 fence="$fence" >/dev/null
	wait $w || die "read: $(cat /run/r)"
	want ok cat /run/r
	want 0 field 10
	msg errors 2 | grep -q "e 2 healed read spare0 8000 96 8 other"
	want ok $io check $R 7990 64 5
}

case_held_read_is_tried_again() {
	want ok $io write $MAIN 7900 200 6
	bad_main
	managed hold 15000
	held_read 7900 200 6
	main_heals
	want 1 as retry 8000 8
	wait $w || die "read: $(cat /run/r)"
	msg errors 0 | grep -q "healed read main 8000 8000 8"
}

case_held_read_of_what_is_lost() {
	want ok $io write $SPARE 0 1000 2
	bad_main
	managed hold 15000
	as secret $KEY
	held_read 7990 64 5
	fenced 8000 8 20000
	want ok $io mark $SPARE 99 8003 $KEY 512
	as add_remap 8000 96 8 0 marked fence="$fence" >/dev/null
	wait $w || true
	want EIO cat /run/r
	msg errors 2 | grep -q "e 2 released read main 8000 8000 8"
	# That is no error of the spare's, and none of its sectors went up.
	if msg errors 0 | grep -q spare0; then die "$(msg errors 0)"; fi
	want ENODATA $io read $R 8003 1
	want ok $io check $R 8000 3 2 96
}

case_reads_are_held_only_if_asked() {
	bad_main
	managed hold 15000
	as lease 30000
	t0=$(now_ms)
	want EIO $io read $R 8000 8
	refusedas "Invalid" lease 30000 read
	refusedas "Invalid" lease 30000 reads reads
	[ $(($(now_ms) - t0)) -lt 8000 ] || die "was held"
	msg errors 0 | grep -q "e 1 failed read main 8000"
	held_read 8000 8 5
	# A lease without it holds no more, and lets what is held wait on.
	as lease 30000
	want EIO $io read $R 8000 8
	want 1 field 10
	$io write $R 8000 8 5 >/run/w & v=$!
	until_true '[ $(field 10) = 2 ]'
	refusedas "Invalid" retry 8000 8 reads
	refusedas "Invalid" release 8000 8 writes
	want 1 as release 8000 8 reads
	wait $w || true
	want EIO cat /run/r
	msg errors 0 | grep -q "released read main 8000"
	# The write waits on.
	want 1 field 10
	want 1 as release 8000 8
	wait $v || true
	want EIO cat /run/w
}

case_held_read_ends_with_its_first_error() {
	bad_main 32
	managed hold 15000
	as lease 30000 reads
	$io read $R 7990 64 >/run/r & w=$!
	until_true '[ $(field 10) = 4 ]'
	want 1 as release 8016 1
	wait $w || true
	want EIO cat /run/r
	want 0 field 10
}

case_writes_are_held_beside_many_reads() {
	# More than reads may have: 300 bad blocks a read.
	bad_main 24000
	managed hold 15000
	as lease 30000 reads
	t0=$(now_ms)
	pids=
	for i in 0 1 2; do
		$io read $R $((8000 + i * 2400)) 2400 >/run/r$i & pids="$pids $!"
	done
	# The one that met the bound gives back what it had.
	until_true 'cat /run/r? | grep -q EIO'
	[ $(($(now_ms) - t0)) -lt 15000 ] || die "it met the bound of its hold, not of the room"
	[ "$(field 10)" -le 512 ] || die "held $(field 10)"
	$io write $R 31992 8 5 >/run/w & w=$!
	until_true 'msg errors 0 | tail -n 1 | grep -q "held write main 31992" || msg errors $(($(field 9) - 1)) | grep -q "held write main 31992"'
	as lease 0
	for p in $pids $w; do wait "$p" || true; done
	want EIO cat /run/w
	want 0 field 10
}

case_held_read_expires() {
	bad_main
	managed hold 1000
	as lease 30000 reads
	t0=$(now_ms)
	want EIO $io read $R 8000 8
	t=$(($(now_ms) - t0))
	[ $t -ge 900 ] && [ $t -lt 15000 ] || die "took $t ms"
	msg errors 0 | grep -q "expired read main 8000"
	want 0 field 10
}

case_no_hold_for_reads_of_a_spare() {
	dmsetup create s --table "0 200 error"
	dmsetup suspend s
	dmsetup load s --table "0 96 linear $SPARE 0
96 8 error
104 $((LEN - 104)) linear $SPARE 104"
	dmsetup resume s
	S=/dev/mapper/s
	bad_main
	managed hold 15000
	held_read 8000 8 5
	fenced 8000 8 20000
	t0=$(now_ms)
	as add_remap 8000 96 8 0 fence="$fence" >/dev/null
	# One that waits gets what the spare says, as one does that comes later.
	wait $w || true
	want EIO cat /run/r
	want EIO $io read $R 8000 8
	[ $(($(now_ms) - t0)) -lt 8000 ] || die "was held"
	msg errors 0 | grep -q "failed read spare0 8000 96"
}

case_noflush_while_a_read_is_held() {
	want ok $io write $MAIN 7990 64 5
	bad_main
	managed hold 8000
	held_read 7990 64 5
	t0=$(now_ms)
	dmsetup suspend --noflush --nolockfs r
	[ $(($(now_ms) - t0)) -lt 4000 ] || die "suspend waited"
	want 0 field 10
	dmsetup resume r
	until_true '[ $(field 10) = 1 ]'
	main_heals
	want 1 as retry 8000 8
	wait $w || die "read: $(cat /run/r)"
}

case_closed_load_ready() {
	want ok $io write $SPARE 0 $LEN 2
	want ok $io write $MAIN 0 $LEN 1
	managed closed 20000
	want CLOSED field 6
	$io check $R 1000 64 2 5000 >/run/w & w=$!
	sleep 0.3
	kill -0 $w || die "did not wait"
	if as ready 1 0000000000000000 2>/dev/null; then die "opened with the wrong count"; fi
	as load 1000:5000:64:0:0,2000:6000:8:0:0
	if as load 3000:100:8:0:0,2004:200:8:0:0 2>/dev/null; then die "loaded an overlap"; fi
	if as load 3000:100:8:0:0, 2>/dev/null; then die "loaded junk"; fi
	if as load 3000:100:8:0:1 2>/dev/null; then die "marked without secret"; fi
	sum=$(msg dump 0 | head -1 | cut -d' ' -f3)
	want "dump 2 $sum
remap 2000 6000 8 0 0
end" msg dump 1001
	as ready 2 "$sum"
	wait $w || die "read: $(cat /run/w)"
	want ACTIVE field 6
	want ok $io check $R 2000 8 2 6000
	want ok $io check $R 2008 80 1
	if as load 9000:9000:8:0:0 2>/dev/null; then die "loaded while active"; fi
	if as add_remap 9000 9000 8 2>/dev/null; then die "added without a fence"; fi
}

case_closed_expires() {
	managed closed 700
	t0=$(now_ms)
	want EIO $io read $R 0 8
	t=$(($(now_ms) - t0))
	[ $t -lt 4000 ] || die "took $t ms"
	want EXPIRED field 6
	want EIO $io write $R 0 8 1
	as add_remap 0 0 8 >/dev/null
	as ready 1 "$(msg dump 0 | head -1 | cut -d' ' -f3)"
	want ok $io write $R 0 8 1
	want ok $io check $SPARE 0 8 1
}

case_noflush_while_closed() {
	want ok $io write $MAIN 0 64 1
	managed closed 20000
	$io check $R 0 64 1 >/run/w & w=$!
	sleep 0.3
	t0=$(now_ms)
	dmsetup suspend --noflush --nolockfs r
	[ $(($(now_ms) - t0)) -lt 4000 ] || die "suspend waited"
	dmsetup resume r
	sleep 0.2
	kill -0 $w || die "no longer waits"
	as ready 0 0000000000000000
	dmsetup suspend --noflush --nolockfs r
	dmsetup resume r
	wait $w || die "read: $(cat /run/w)"
}

case_noflush_while_held() {
	bad_main
	managed hold 8000
	as lease 30000
	$io write $R 7990 64 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	t0=$(now_ms)
	dmsetup suspend --noflush --nolockfs r
	[ $(($(now_ms) - t0)) -lt 4000 ] || die "suspend waited"
	want 0 field 10
	dmsetup resume r
	until_true '[ $(field 10) = 1 ]'
	as release 8000 8 >/dev/null
	wait $w || true
	want EIO cat /run/w
}

case_flush_suspend_while_held() {
	bad_main
	managed hold 1500
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	t0=$(now_ms)
	dmsetup suspend r
	[ $(($(now_ms) - t0)) -lt 15000 ] || die "suspend took too long"
	dmsetup resume r
	wait $w || true
	want EIO cat /run/w
}

case_reload() {
	managed hold 100
	fenced 100 8 5000
	as add_remap 100 200 8 0 fence="$fence" >/dev/null
	inst=$(field 8)
	dmsetup suspend r
	dmsetup load r --table "$(dmsetup table r)"
	dmsetup resume r
	want 1 field 4
	want "$inst" field 8
	want ok $io write $R 96 16 4
	want ok $io check $SPARE 200 8 4 100
	for t in "0 $LEN dm-remap-v4 /dev/ram2 $SPARE 1 managed" "0 $LEN dm-remap-v4 $MAIN /dev/ram2 1 managed" \
		"0 60000 dm-remap-v4 $MAIN $SPARE 1 managed" "0 $LEN dm-remap-v4 $MAIN $SPARE" \
		"0 $LEN dm-remap-v4 $MAIN $SPARE 4 managed reserve 8 8"; do
		if dmsetup load r --table "$t" 2>/dev/null; then die "loaded: $t"; fi
	done
	dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 3 managed hold 50"
	dmsetup resume r
	want 1 field 4
}

case_reload_plain() {
	plain
	dmsetup load r --table "0 $LEN dm-remap-v4 /dev/ram2 $SPARE"
	refused "busy" add_remap 100 200 8
	dmsetup clear r
	msg add_remap 100 200 8 >/dev/null
	if dmsetup load r --table "0 $LEN dm-remap-v4 /dev/ram2 $SPARE" 2>/dev/null; then die "orphaned"; fi
	msg clear_all >/dev/null
	dmsetup load r --table "0 $LEN dm-remap-v4 /dev/ram2 $SPARE"
	dmsetup resume r
	want ok $io write $R 0 8 3
	want ok $io check /dev/ram2 0 8 3
}

case_lost_marks() {
	want ok $io write $SPARE 0 1000 2
	managed closed 20000
	if as add_remap 800 96 16 marked 2>/dev/null; then die "marked without a secret"; fi
	as secret $KEY
	as add_remap 800 96 16 marked >/dev/null
	if as secret ffffffffffffffffffffffffffffffff 2>/dev/null; then die "secret changed"; fi
	as secret $KEY
	want ok $io mark $SPARE 99 803 $KEY 512
	# A mark of another place is data.
	want ok $io mark $SPARE 105 810 $KEY 512
	as ready 1 "$(msg dump 0 | head -1 | cut -d' ' -f3)"
	want ENODATA $io read $R 800 16
	want ENODATA $io read $R 803 1
	want ENODATA $io read $R 700 200
	want ok $io check $R 800 3 2 96
	want ok $io check $R 804 5 2 100
	want ok $io read $R 809 1
	want "errors 1 1" msg errors 0
	want ok $io write $R 803 1 8
	want ok $io check $R 803 1 8
	want ok $io read $R 700 200
	msg dump 0 | grep -q "remap 800 96 16 0 1"
}

case_lost_marks_long() {
	managed closed 20000
	as secret $KEY
	as add_remap 1000 2000 900 0 marked >/dev/null
	want ok $io write $SPARE 2000 900 3
	as ready 1 "$(msg dump 0 | head -1 | cut -d' ' -f3)"
	want ok $io check $R 1000 900 3 2000
	want ok $io mark $SPARE 2899 1899 $KEY 512
	want ok $io check $R 1000 899 3 2000
	want ENODATA $io read $R 1000 900
	want ok $io torture $R 1800 300 5
}

case_fence_waits_and_expires() {
	managed hold 100
	want ok $io write $R 1000 100 1
	drained 1000 50 6000
	t0=$(now_ms)
	$io write $R 990 60 2 >/run/w & w=$!
	want ok $io check $R 1050 8 1
	sleep 0.2
	kill -0 $w || die "passed the fence"
	wait $w || die "write: $(cat /run/w)"
	[ $(($(now_ms) - t0)) -lt 30000 ] || die "fence did not expire"
	want ok $io check $R 990 60 2
	if as seal "$fence" 2>/dev/null; then die "sealed a gone fence"; fi
	want 0 field 11
}

case_unfence() {
	managed hold 100
	want ok $io write $R 1000 100 1
	fenced 1000 50 20000
	if as fence 1049 1 1000 2>/dev/null; then die "overlapping fence"; fi
	$io check $R 990 100 1 990 >/run/w & w=$!
	$io check $R 1010 10 1 >/run/w2 & w2=$!
	sleep 0.3
	kill -0 $w2 || die "passed a sealed fence"
	as unfence "$fence"
	wait $w2 || die "read: $(cat /run/w2)"
	wait $w || true
}

case_sealed_bound_fails() {
	managed hold 100
	want ok $io write $R 1000 100 1
	fenced 1000 50 4000
	t0=$(now_ms)
	want EIO $io read $R 1000 8
	[ $(($(now_ms) - t0)) -lt 30000 ] || die "waited too long"
	msg fences | grep -q "fence $fence 1000 50 failed 0"
	want EIO $io write $R 1049 1 7
	want ok $io check $R 1050 50 1
	want ok $io check $MAIN 1049 1 1
	as add_remap 1000 3000 50 0 fence="$fence" >/dev/null
	want ok $io write $R 1000 50 3
	want ok $io check $SPARE 3000 50 3 1000
}

case_remove_under_fence() {
	managed closed 20000
	as add_remap 1000 3000 8 >/dev/null
	as ready 1 "$(msg dump 0 | head -1 | cut -d' ' -f3)"
	if as remove_remap 1000 2>/dev/null; then die "removed without a fence"; fi
	fenced 1000 4 5000
	if as remove_remap 1000 fence="$fence" 2>/dev/null; then die "fence does not cover it"; fi
	# A shorter replacement gives up sectors that this fence does not cover.
	if as add_remap 1000 4000 4 fence="$fence" 2>/dev/null; then die "sectors 1004..1007 orphaned"; fi
	as unfence "$fence"
	fenced 1000 8 5000
	as remove_remap 1000 fence="$fence" >/dev/null
	want 0 field 4
	want 0 field 11
}

case_owners() {
	managed hold 100
	as lease 1000
	old=$TOKEN
	msg own "$INSTANCE" 00000000000000b2
	refused "not permitted" as "$INSTANCE" "$old" lease 1000
	msg as "$INSTANCE" 00000000000000b2 lease 1000
	refused "Stale" as 0000000000000000 00000000000000b2 lease 1000
	refused "Stale" own 0000000000000000 00000000000000b2
	refused "not permitted" clear_all
	refused "not permitted" lease 1000
	refused "Invalid argument" as "$INSTANCE" 00000000000000b2 nonsense
	refused "Invalid argument" as "$INSTANCE" 00000000000000b2
}

# Flush requests that a disk has completed
flushes() { awk '{ print $16 }' "/sys/block/$1/stat"; }

case_flush_only_dirty_spare() {
	# Loop devices have a write cache, ram disks have none.
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/loop1"
	msg add_remap 1000 0 8 >/dev/null
	want ok $io flush $R
	m=$(flushes loop0) s=$(flushes loop1)
	[ "$m" -gt 0 ] || die "main was not flushed"
	want ok $io write $R 0 8 1
	want ok $io flush $R
	want "$s" flushes loop1
	[ "$(flushes loop0)" -gt "$m" ] || die "main was not flushed"
	want ok $io write $R 1000 8 1
	want ok $io flush $R
	want $((s + 1)) flushes loop1
	want ok $io flush $R
	want $((s + 1)) flushes loop1
}

case_flush_under_flush() {
	# A second flush may not be acknowledged while the first is under way:
	# what it vouches for is not on the medium yet.
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create s --table "0 32768 delay /dev/loop1 0 0 /dev/loop1 0 0 /dev/loop1 0 8000"
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/mapper/s"
	msg add_remap 1000 0 8 >/dev/null
	want ok $io write $R 1000 8 1
	$io flush $R >/run/w & w=$!
	sleep 1
	t0=$(now_ms)
	want ok $io flush $R
	[ $(($(now_ms) - t0)) -ge 1000 ] || die "did not wait for the spare"
	wait $w || die "flush: $(cat /run/w)"
	t0=$(now_ms)
	want ok $io flush $R
	[ $(($(now_ms) - t0)) -lt 6000 ] || die "flushed a clean spare"
}

case_flush_dead_spare() {
	# A spare that nothing maps to may fail without anybody noticing.
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create s --table "0 32768 linear /dev/loop1 0"
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/mapper/s"
	msg add_remap 1000 0 8 >/dev/null
	want ok $io write $R 1000 8 1
	dmsetup suspend s
	dmsetup load s --table "0 32768 flakey /dev/loop1 0 0 1000"
	dmsetup resume s
	want EIO $io flush $R
	msg errors 0 | grep -q "e 1 failed flush spare0 - 0 0 ioerr"
	msg clear_all >/dev/null
	want ok $io write $R 1000 8 1
	sleep 11
	want ok $io flush $R
}

case_flush_failure_is_latched() {
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create m --table "0 32768 flakey /dev/loop0 0 0 1000"
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/mapper/m /dev/loop1 1 managed"
	own
	# A write with preflush and FUA, as a journal sends its commit: its flush
	# fails, then the member recovers, and the data itself could be written.
	want EIO $io flush $R
	dmsetup suspend --noflush m
	dmsetup load m --table "0 32768 linear /dev/loop0 0"
	dmsetup resume m
	want ok $io write $R 0 8 1
	want EIO $io dsync $R 0 8 2
	want EIO $io flush $R
	want ok $io check $R 0 8 1
	as ack_flush
	want ok $io dsync $R 0 8 2
	want ok $io flush $R
	want "errors 1 2" sh -c "dmsetup message r 0 errors 0 | head -1"
}

case_discard() {
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/loop1"
	want ok $io write /dev/loop0 0 4096 1
	want ok $io write /dev/loop1 0 4096 2
	msg add_remap 1000 80 80 >/dev/null
	want ok $io discard $R 800 400
	want ok $io zero $R 800 400
	want ok $io zero /dev/loop1 80 80
	want ok $io check /dev/loop1 0 80 2
	want ok $io check /dev/loop1 160 80 2
	want ok $io check /dev/loop0 1000 80 1
	want ok $io check /dev/loop0 0 800 1
}

case_error_ring() {
	bad_main
	dmsetup create r --table "0 $LEN dm-remap-v4 $M $SPARE"
	ev=$(dmsetup info -c --noheadings -o events r)
	want EIO $io read $R 7996 16
	msg errors 0 | grep -q "e 1 failed read main 7996 7996 16 ioerr"
	until_true '[ "$(dmsetup info -c --noheadings -o events r)" -gt '"$ev"' ]'
	i=0
	while [ $i -lt 60 ]; do
		$io read $R 8000 1 >/dev/null || true
		i=$((i + 1))
	done
	want 62 field 9
	want 61 field 5
	[ "$(msg errors 0 | wc -l)" = 62 ]
	[ "$(msg errors 61 | wc -l)" = 2 ]
	want "errors 1 62" msg errors 62
	msg health | grep -q "Health score: 0/100"
}

case_ring_overflow() {
	dmsetup create m <<-T
		0 8000 linear $MAIN 0
		8000 800 error
		8800 $((LEN - 8800)) linear $MAIN 8800
	T
	dmsetup create r --table "0 $LEN dm-remap-v4 /dev/mapper/m $SPARE"
	dd if=$R of=/dev/null bs=512 skip=8000 count=700 iflag=direct conv=noerror 2>/dev/null || true
	n=$(field 9)
	[ "$n" -gt 600 ] || die "only $n"
	# What is gone shows as a gap, and the rest comes in parts.
	msg errors 0 >/run/errors
	want "errors $((n - 512)) $n" head -n 1 /run/errors
	[ "$(sed -n 2p /run/errors | cut -d' ' -f2)" = $((n - 512)) ] || die "$(head -n 2 /run/errors)"
	[ "$(wc -l </run/errors)" = 129 ]
	[ "$(msg errors $((n - 5)) | wc -l)" = 6 ]
}

case_spare_fails_in_redrive() {
	bad_main
	dmsetup create s <<-T
		0 96 linear $SPARE 0
		96 8 error
		104 $((LEN - 104)) linear $SPARE 104
	T
	S=/dev/mapper/s
	managed hold 8000
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	fenced 8000 8 5000
	as add_remap 8000 96 8 0 fence="$fence" >/dev/null
	until_true 'msg errors 0 | grep -q "held write spare0 8000 96 8"'
	until_true '[ $(field 10) = 1 ]'
	fenced 8000 8 5000
	as add_remap 8000 200 8 0 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want ok $io check $SPARE 200 8 5 8000
}

case_hold_through_fence() {
	# The write fails while a fence over its block is in force.
	bad_main
	managed hold 8000
	as lease 30000
	fenced 8000 8 20000
	$io write $R 7992 24 5 >/run/w & w=$!
	sleep 0.3
	kill -0 $w || die "passed the fence"
	as add_remap 8000 96 8 0 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want ok $io check $R 7992 24 5
}

case_remove_with_held() {
	bad_main
	managed hold 8000
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	if dmsetup remove r 2>/dev/null; then die "removed while open"; fi
	t0=$(now_ms)
	dmsetup remove --force r || true
	wait $w || true
	[ $(($(now_ms) - t0)) -lt 6000 ] || die "not bounded"
	want EIO cat /run/w
}

case_transport_never_held() {
	# A plain device never holds either.
	bad_main
	dmsetup create r --table "0 $LEN dm-remap-v4 $M $SPARE"
	t0=$(now_ms)
	want EIO $io write $R 8000 8 5
	[ $(($(now_ms) - t0)) -lt 3000 ] || die "held on a plain device"
}

case_partition_of_main() {
	# Loop partitions are not there; a linear map with an offset stands in.
	dmsetup create m --table "0 30000 linear $MAIN 2048"
	dmsetup create r --table "0 30000 dm-remap-v4 /dev/mapper/m $SPARE"
	want ok $io write $R 0 64 3
	want ok $io check $MAIN 2048 64 3 0
}

case_same_device() {
	dmsetup create r --table "0 30000 dm-remap-v4 $MAIN $MAIN"
	msg add_remap 100 40000 50 >/dev/null
	want ok $io write $R 90 100 3
	want ok $io check $MAIN 40000 50 3 100
}

case_many_held() {
	bad_main 512
	managed hold 10000
	as lease 30000
	$io write $R 7900 1000 5 >/run/w & w=$!
	until_true '[ $(field 10) = 64 ]'
	fenced 8000 512 9000
	as add_remap 8000 1024 512 0 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want ok $io check $R 7900 1000 5
	want ok $io check $SPARE 1024 512 5 8000
}

case_drain_under_load() {
	managed hold 100
	$io torture $R 4096 3000 3 >/run/w & w=$!
	for i in 1 2 3 4 5 6; do
		fenced $((i * 500)) 300 5000
		as unfence "$fence"
	done
	wait $w || die "torture: $(cat /run/w)"
}

case_partition_write_error() {
	# Re-issued pieces must not be moved by the partition's start twice.
	bad_main
	losetup -P --direct-io=on /dev/loop0 /dev/mapper/m
	addpart /dev/loop0 1 2048 40000
	dmsetup create r --table "0 40000 dm-remap-v4 /dev/loop0p1 $SPARE 1 managed"
	own
	as lease 30000
	want ok $io write $MAIN 0 8000 9
	$io write $R 5901 200 5 >/run/w & w=$!
	until_true '[ $(field 10) = 8 ]'
	# A loop device has physical blocks of 512 bytes.
	msg errors 0 | grep -q "e 1 held write main 5952 5952 1"
	msg errors 0 | grep -q "e 8 held write main 5959 5959 1"
	fenced 5952 8 5000
	as add_remap 5952 96 8 0 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want ok $io check $R 5901 200 5
	want ok $io check $MAIN 7949 51 5 5901
	want ok $io check $MAIN 8008 141 5 5960
	want ok $io check $SPARE 96 8 5 5952
	want ok $io check $MAIN 5800 2149 9
}

case_big_blocks() {
	truncate -s 16M /run/main /run/spare
	losetup -b 4096 /dev/loop0 /run/main
	losetup -b 4096 /dev/loop1 /run/spare
	if dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 $SPARE 1 managed" 2>/dev/null; then
		die "blocks of two sizes"
	fi
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/loop1 3 managed closed 20000"
	own
	for bad in "1001 800 8" "1000 801 8" "1000 800 7"; do
		if as "add_remap $bad" 2>/dev/null; then die "accepted: $bad"; fi
	done
	as secret $KEY
	as add_remap 1000 800 24 0 marked >/dev/null
	want ok $io write /dev/loop1 800 24 2
	want ok $io mark /dev/loop1 808 1008 $KEY 4096
	as ready 1 "$(msg dump 0 | head -1 | cut -d' ' -f3)"
	want 4096 blockdev --getss $R
	want ok $io check $R 1000 8 2 800
	want ENODATA $io read $R 1008 8
	want ok $io check $R 1016 8 2 816
	want ok $io write $R 1008 8 3
	want ok $io check $R 1008 8 3
	want ok $io write $R 960 128 4
	want ok $io check /dev/loop1 800 24 4 1000
	want "Invalid argument" $io read $R 1001 1
	for bad in "1001 8" "1000 1"; do
		if as "fence $bad 1000" 2>/dev/null; then die "fence of half a block: $bad"; fi
	done
	fenced 1000 8 5000
	$io write $R 992 24 6 >/run/w & w=$!
	sleep 0.2
	as unfence "$fence"
	wait $w || die "write: $(cat /run/w)"
	want ok $io check $R 992 24 6
}

# Members that take their time, so that I/O is in flight when things change
slow_members() {
	dmsetup create m --table "0 $LEN delay $MAIN 0 2 $MAIN 0 3"
	dmsetup create s --table "0 $LEN delay $SPARE 0 3 $SPARE 0 2"
	M=/dev/mapper/m
	S=/dev/mapper/s
}

copy() { dd if="$1" of="$3" bs=512 skip="$2" seek="$4" count="$5" iflag=direct oflag=direct 2>/dev/null; }

case_move_under_load() {
	# What the daemon does, with a real copy: no write may get lost.
	slow_members
	managed hold 100
	$io torture $R 512 600 3 >/run/w & w=$!
	$io write $R 60000 8 1 >/dev/null
	n=0
	while kill -0 $w 2>/dev/null; do
		at=$((n % 4 * 100 + 13))
		to=$((1000 + n % 3 * 200))
		fenced $at 90 5000
		copy $MAIN $at $SPARE $to 90
		as add_remap $at $to 90 0 fence="$fence" >/dev/null
		fenced $at 90 5000
		copy $SPARE $to $MAIN $at 90
		as remove_remap $at fence="$fence" >/dev/null
		n=$((n + 1))
	done
	wait $w || die "torture: $(cat /run/w)"
	[ $n -ge 3 ] || die "only $n moves"
	want 0 field 11
}

case_suspend_under_load() {
	slow_members
	managed hold 100
	fenced 100 8 5000
	as add_remap 100 200 8 0 fence="$fence" >/dev/null
	$io torture $R 512 400 4 >/run/w & w=$!
	n=0
	while kill -0 $w 2>/dev/null; do
		drained $((n % 5 * 50)) 40 2000
		if [ $((n % 2)) = 0 ]; then
			dmsetup suspend --noflush --nolockfs r
		else
			as unfence "$fence"
			dmsetup suspend r
		fi
		[ $((n % 3)) = 0 ] && dmsetup load r --table "$(dmsetup table r)"
		dmsetup resume r
		as unfence "$fence" 2>/dev/null || true
		n=$((n + 1))
	done
	wait $w || die "torture: $(cat /run/w)"
	[ $n -ge 3 ] || die "only $n suspends"
}

case_messages_under_load() {
	# Tables come and go under the lookups of two readers and a writer.
	plain
	msg add_remap 100 100 77 >/dev/null
	msg add_remap 1000 1000 5 >/dev/null
	$io torture $R 2048 1500 6 >/run/w & w=$!
	for id in 0 1 2; do
		while kill -0 $w 2>/dev/null; do
			msg add_remap $((10000 + id * 1000)) $((10000 + id * 1000)) 64 >/dev/null
			msg dump 0 >/dev/null
			$io write $R $((9990 + id * 1000)) 100 1 >/dev/null
			msg status >/dev/null
			msg remove_remap $((10000 + id * 1000)) >/dev/null
		done &
	done
	wait $w || die "torture: $(cat /run/w)"
	wait
	want 2 field 4
	want 0 field 5
}

case_drained_waits_for_io() {
	dmsetup create m --table "0 $LEN delay $MAIN 0 8000 $MAIN 0 8000"
	M=/dev/mapper/m
	managed hold 100
	ev=$(dmsetup info -c --noheadings -o events r)
	$io write $R 100 8 1 >/run/w & w=$!
	sleep 1
	fence=$(as fence 100 8 30000 | cut -d' ' -f2)
	msg fences | grep -q draining
	if as seal "$fence" 2>/dev/null; then die "sealed while draining"; fi
	until_true 'msg fences | grep -q drained'
	until_true '[ "$(dmsetup info -c --noheadings -o events r)" -gt '"$ev"' ]'
	# Whoever sees it drained finds the write finished.
	want ok $io check $MAIN 100 8 1
	wait $w
}

case_only_the_medium_is_held() {
	# Not held: a write that says it wants no retries, and any discard.
	bad_main
	managed hold 15000
	as lease 30000
	t0=$(now_ms)
	want EIO $io read $R 8000 8
	$io discard $R 8000 8 >/dev/null || true
	[ $(($(now_ms) - t0)) -lt 14000 ] || die "held what is no write"
	want 0 field 10
}

case_held_cap() {
	# 1200 bad blocks: more than may be held.
	bad_main 16000
	managed hold 15000
	as lease 30000
	t0=$(now_ms)
	pids=
	for i in 0 1 2 3 4; do
		$io write $R $((8000 + i * 2048)) 2048 5 >/run/w$i & pids="$pids $!"
	done
	until_true 'cat /run/w? | grep -q EIO'
	[ $(($(now_ms) - t0)) -lt 15000 ] || die "no error before the bound"
	[ "$(field 10)" -le 1024 ] || die "held $(field 10)"
	as lease 0
	for p in $pids; do wait "$p" || true; done
	want 0 field 10
}

case_hostile_messages() {
	long=$(printf 'x%.0s' $(seq 3000))
	plain
	for round in plain managed; do
		if [ $round = managed ]; then
			dmsetup remove r
			managed hold 100
		fi
		for m in "" " " "\\" "%s%n%d" "$long" "add_remap $long 1 1" "as" "as x" "as $long y z" \
			"add_remap 1 1 1 1 1 1 1 1 1" "errors" "errors x" "errors 1 2" "dump 99999999999999999999" \
			"dump -1" "help me" "status x" "fences 1" "own" "own 1 2" "load" "load x" "ready" "lease" \
			"add_remap 0 0 4294967295" "add_remap 0 0 1 65536" "add_remap 0 0 1 7" "stats stats"; do
			if dmsetup message r 0 "$m" >/dev/null 2>&1; then die "accepted ($round): $m"; fi
		done
	done
	for m in "load 1:2:3" "load ::::" "load $long" "ready 0" "ready x y" "ready 0 0" "lease 60001" "lease -1" \
		"secret" "secret 00" "secret $KEY$KEY" "fence 0 0 100" "fence $LEN 1 100" "fence 0 1 0" "fence 0 1 60001" \
		"fence 18446744073709551615 2 100" "seal 0" "seal 99" "unfence 99" "retry 0 0" "release 1 18446744073709551615" \
		"add_remap 0 0 8 fence=0" "add_remap 0 0 8 fence=99" "add_remap 0 0 8 bogus" "add_remap 0 0 8 0 fence=1 fence=x" \
		"remove_remap 0 fence=1" "clear_all bogus" "own $INSTANCE $TOKEN" "as $INSTANCE $TOKEN lease 1" "help"; do
		if as "$m" >/dev/null 2>&1; then die "accepted: $m"; fi
	done
	want 0 field 4
	want 0 field 11
	want ACTIVE field 6
}

case_many_fences() {
	managed hold 100
	i=0
	while [ $i -lt 64 ]; do
		as fence $((i * 10)) 5 60000 >/dev/null
		i=$((i + 1))
	done
	if as fence 30000 5 1000 2>/dev/null; then die "65 fences"; fi
	want 64 field 11
	want ok $io write $R 5 5 1
	[ "$(msg fences | wc -l)" = 65 ]
	want end sh -c "dmsetup message r 0 fences | tail -1"
	for id in $(msg fences | awk '/^fence/ { print $2 }'); do as unfence "$id"; done
	want 0 field 11
}

case_dump_pages() {
	managed closed 20000
	i=0 words=
	while [ $i -lt 1200 ]; do
		words=$words,$((i * 16)):$((i * 8)):8:0:0
		i=$((i + 1))
	done
	as load "${words#,}"
	from=0 n=0
	while [ -n "$from" ]; do
		msg dump "$from" >/run/page
		n=$((n + $(grep -c ^remap /run/page)))
		from=$(awk '/^next/ { print $2 }' /run/page)
	done
	want 1200 echo $n
	as ready 1200 "$(msg dump 0 | head -1 | cut -d' ' -f3)"
	want ok $io torture $R 20000 200 9
}

case_redrive_is_durable() {
	# A loop device has a cache, so that FUA costs it a flush.
	bad_main
	truncate -s 16M /run/spare
	losetup /dev/loop1 /run/spare
	S=/dev/loop1
	managed hold 8000
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	fenced 8000 8 5000
	n=$(flushes loop1)
	as add_remap 8000 96 8 0 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want $((n + 1)) flushes loop1
}

case_redrive_may_wait() {
	# The write was sent with REQ_NOWAIT; its spare is never free at once.
	null_disk 1 badblocks=+8000-8000
	null_disk 2 hw_queue_depth=1 irqmode=2 completion_nsec=200000000
	M=/dev/nullb1 S=/dev/nullb2
	managed hold 10000
	as lease 30000
	$io nowait $R 8000 1 5 >/run/w & w=$!
	until_true '[ $(field 10) = 1 ]'
	fenced 8000 1 9000
	for _ in 1 2 3; do
		while [ ! -e /run/enough ]; do $io read /dev/nullb2 0 8 >/dev/null; done &
	done
	sleep 0.5
	as add_remap 8000 96 1 0 fence="$fence" >/dev/null
	wait $w || { touch /run/enough; die "write: $(cat /run/w)"; }
	touch /run/enough
	wait
	rm /run/enough
	want ok $io check $S 96 1 5 8000
}

case_cure_while_failing() {
	# The block is cured, and said to be, while the attempt that fails is under way.
	null_disk 1 badblocks=+8000-8000 irqmode=2 completion_nsec=3000000000
	M=/dev/nullb1
	managed hold 8000
	as lease 30000
	$io write $R 8000 1 5 >/run/w & w=$!
	sleep 4
	echo -8000-8000 >$NULLB/nullb1/badblocks
	as retry 8000 1 >/dev/null
	wait $w || die "missed the cure: $(cat /run/w)"
	want ok $io check $R 8000 1 5
}

case_flush_after_waiting_write() {
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/loop1 1 managed"
	own
	fenced 1000 8 5000
	as add_remap 1000 0 8 0 fence="$fence" >/dev/null
	want ok $io flush $R
	want ok $io flush $R
	n=$(flushes loop1)
	fenced 1000 8 20000
	$io write $R 1000 8 1 >/run/w & w=$!
	sleep 0.3
	as unfence "$fence"
	wait $w || die "write: $(cat /run/w)"
	want ok $io flush $R
	want $((n + 1)) flushes loop1
}

case_failed_flush_is_repeated() {
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create s --table "0 32768 linear /dev/loop1 0"
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/mapper/s 1 managed"
	own
	fenced 1000 8 5000
	as add_remap 1000 0 8 0 fence="$fence" >/dev/null
	want ok $io write $R 1000 8 1
	dmsetup suspend s
	dmsetup load s --table "0 32768 flakey /dev/loop1 0 0 1000"
	dmsetup resume s
	want EIO $io flush $R
	dmsetup suspend s
	dmsetup load s --table "0 32768 linear /dev/loop1 0"
	dmsetup resume s
	as ack_flush
	n=$(flushes loop1)
	want ok $io flush $R
	want $((n + 1)) flushes loop1
}

# A spare that serves nothing, and a main.
two_disks() {
	truncate -s 16M /run/main /run/spare
	losetup /dev/loop0 /run/main
	losetup /dev/loop1 /run/spare
	dmsetup create r --table "0 32768 dm-remap-v4 /dev/loop0 /dev/loop1 1 managed"
	own
}

flushed_spare() {
	two_disks
	fenced 1000 8 5000
	as add_remap 1000 0 8 0 fence="$fence" >/dev/null
	want ok $io write $R 1000 8 1
	want ok $io flush $R
}

# After a write to this sector a flush ends as the owner's <n> does, and not before it; <other> of the same member ends sooner.
ends_as_own() { # <sector> <n> [<other>]
	for end in done failed; do
		want ok $io write $R "$1" 8 2
		as flush begin "$2"
		[ -z "${3:-}" ] || as flush begin "$3"
		$io flush $R >/run/w & w=$!
		[ -z "${3:-}" ] || as flush done "$3"
		[ -z "${3:-}" ] || as flush done "$3"
		sleep 0.3
		[ ! -s /run/w ] || die "flushed before the owner: $(cat /run/w)"
		as flush "$end" "$2"
		wait $w || true
		case $end in
		done) want ok cat /run/w ;;
		failed) want EIO cat /run/w ;;
		esac
	done
	# Told, and latched for others.
	want EIO $io flush $R
	as ack_flush
	want ok $io flush $R
}

case_own_flush_holds_others_back() {
	flushed_spare
	# Nothing was written there since: no need to wait.
	as flush begin 1
	want ok $io flush $R
	as flush done 1
	ends_as_own 1000 1 49
}

case_own_flush_of_main() {
	flushed_spare
	ends_as_own 0 16
	msg errors 0 | grep -q 'failed flush main - 0 0 ioerr'
}

case_own_flush_failure_is_owed() {
	flushed_spare
	as flush begin 1
	as flush failed 1
	# Longer than a failure that somebody was told of is latched for
	sleep 11
	want ok $io write $R 0 8 1
	n=$(flushes loop1)
	want EIO $io dsync $R 0 8 2
	want EIO $io flush $R
	as ack_flush
	want ok $io flush $R
	want $((n + 1)) flushes loop1
	want ok $io flush $R
	want $((n + 1)) flushes loop1
	refusedas "Invalid argument" flush begin
	refusedas "range" flush begin 64
	refusedas "range" flush begin 9
	refusedas "Invalid argument" flush now 1
}

# What the first one relies on is not known yet, so the second one must not pass it.
case_own_flush_holds_all_that_follow() {
	flushed_spare
	want ok $io write $R 1000 8 2
	as flush begin 1
	$io flush $R >/run/w & w=$!
	sleep 0.3
	$io flush $R >/run/w2 & w2=$!
	sleep 0.3
	[ ! -s /run/w ] && [ ! -s /run/w2 ] || die "flushed before the owner: $(cat /run/w /run/w2)"
	as flush failed 1
	wait $w || true
	wait $w2 || true
	want EIO cat /run/w
	want EIO cat /run/w2
	as ack_flush
	n=$(flushes loop1)
	want ok $io flush $R
	want $((n + 1)) flushes loop1
}

# A spare that serves nothing may fail, and flushes do not wait for that of another member.
case_own_flush_of_an_unused_spare() {
	two_disks
	want ok $io write $R 0 8 2
	as flush begin 1
	want ok $io flush $R
	as flush failed 1
	want ok $io write $R 0 8 3
	want ok $io flush $R
	as flush begin 1
	TOKEN=00000000000000b2
	own
	want ok $io dsync $R 0 8 4
}

case_own_flush_and_suspend() {
	flushed_spare
	want ok $io write $R 1000 8 2
	as flush begin 1
	$io flush $R >/run/w & w=$!
	sleep 0.3
	t0=$(now_ms)
	dmsetup suspend --noflush --nolockfs r
	t=$(($(now_ms) - t0))
	[ $t -lt 4000 ] || die "the suspend waited $t ms"
	dmsetup resume r
	sleep 0.3
	[ ! -s /run/w ] || die "flushed before the owner: $(cat /run/w)"
	as flush done 1
	wait $w || true
	want ok cat /run/w
}

case_own_flush_of_a_dead_owner() {
	flushed_spare
	want ok $io write $R 1000 8 2
	as flush begin 1
	$io flush $R >/run/w & w=$!
	sleep 0.3
	TOKEN=00000000000000b2
	own
	wait $w || true
	want EIO cat /run/w
	as ack_flush
	want ok $io flush $R
	# Without a successor the wait has a bound.
	want ok $io write $R 1000 8 3
	as flush begin 1
	t0=$(now_ms)
	want EIO $io flush $R
	t=$(($(now_ms) - t0))
	[ $t -ge 29000 ] && [ $t -lt 60000 ] || die "waited for $t ms"
	as ack_flush
	want ok $io flush $R
	# What the first owner says of it now is old.
	as flush done 1
	want ok $io flush $R
}

case_spare_write_error_is_not_held() {
	dmsetup create s <<-T
		0 96 linear $SPARE 0
		96 8 error
		104 $((LEN - 104)) linear $SPARE 104
	T
	S=/dev/mapper/s
	managed hold 15000
	as lease 30000
	fenced 1000 8 5000
	as add_remap 1000 96 8 0 fence="$fence" >/dev/null
	t0=$(now_ms)
	want EIO $io write $R 1000 8 1
	[ $(($(now_ms) - t0)) -lt 14000 ] || die "was held"
	msg errors 0 | grep -q "e 1 failed write spare0 1000 96 8"
}

case_one_target_in_a_table() {
	if dmsetup create r 2>/dev/null <<-T
		0 20000 dm-remap-v4 /dev/ram0 /dev/ram1
		20000 20000 dm-remap-v4 /dev/ram2 /dev/ram3
	T
	then die "two targets in one table"; fi
}

# model <start> <block in sectors> <first sector of main> <of the spare> <spare length>:
# random ranges of r, which has 20000 sectors of main
model() {
	"$RG_TESTS/out/ranges" 2500 "$RG_SEED" "$1" 20000 "$2" /run/main "$3" /run/spare "$4" "$5" >/run/ranges || {
		cat /run/ranges
		exit 1
	}
	cat /run/ranges >/dev/console
}

# Loop devices over fresh files; $1 and $2 are their logical block sizes.
media() {
	rm -f /run/main /run/spare
	truncate -s 16M /run/main /run/spare
	losetup -b "$1" /dev/loop0 /run/main
	losetup -b "$2" /dev/loop1 /run/spare
}

case_model_small_blocks() {
	media 512 512
	dmsetup create r --table "0 20000 dm-remap-v4 /dev/loop0 /dev/loop1"
	model 0 1 0 0 32768
}

case_model_big_blocks() {
	media 4096 4096
	dmsetup create r --table "0 20000 dm-remap-v4 /dev/loop0 /dev/loop1"
	model 0 8 0 0 32768
}

case_model_mixed_blocks() {
	# The larger block is that of the device.
	media 512 4096
	dmsetup create r --table "0 20000 dm-remap-v4 /dev/loop0 /dev/loop1"
	want 4096 blockdev --getss $R
	model 0 8 0 0 32768
}

case_model_limits() {
	# A spare that takes far smaller requests than main.
	media 512 512
	echo 4 >/sys/block/loop1/queue/max_sectors_kb
	dmsetup create r --table "0 20000 dm-remap-v4 /dev/loop0 /dev/loop1"
	model 0 1 0 0 32768
}

case_model_partitions() {
	media 512 512
	addpart /dev/loop0 1 63 20000
	addpart /dev/loop1 1 2047 5001
	dmsetup create r --table "0 20000 dm-remap-v4 /dev/loop0p1 /dev/loop1p1"
	model 0 1 63 2047 5001
}

case_model_table_start() {
	media 512 512
	truncate -s 2M /run/other
	losetup /dev/loop2 /run/other
	dmsetup create r <<-T
		0 1001 linear /dev/loop2 0
		1001 20000 dm-remap-v4 /dev/loop0 /dev/loop1
		21001 77 linear /dev/loop2 2000
	T
	model 1001 1 0 0 32768
	want ok $io zero /dev/loop2 0 4096
}

case_fuzzed_messages() {
	"$RG_TESTS/out/messages" "$RG_TESTS/fuzz/words" "$RG_TESTS/fuzz/tables" 6000 "$RG_SEED" >/run/fuzz || {
		cat /run/fuzz
		exit 1
	}
	grep "^##" /run/fuzz >/dev/console
}

run_cases() {
	cases=${1:-$(sed -n 's/^case_\([a-z_]*\)() {$/\1/p' "$RG_TESTS/uml-cases.sh")}
	for c in $cases; do
		start=$(date +%s)
		# Not as a condition: that would switch -e off inside.
		(
			set -e
			"case_$c"
		) >/run/case.log 2>&1
		if [ $? -eq 0 ]; then
			echo "ok $c ($(($(date +%s) - start)) s)"
		else
			echo "FAIL $c"
			tail -5 /run/case.log | sed 's/^/## /'
		fi
		cleanup
	done
}

# A million remaps in twenty messages: all there, and next to nothing in the log.
case_bulk_million() {
	LEN=2000000
	dmsetup create m --table "0 $LEN linear /dev/nullb0 0"
	dmsetup create x --table "0 $LEN linear /dev/nullb0 $LEN"
	M=/dev/mapper/m S=/dev/mapper/x managed closed 600000
	lines=$(dmesg | wc -l)
	echo "## $("$RG_TESTS/out/bulk" r "$INSTANCE" "$TOKEN" 1000000 50000)"
	want 1000000 field 4
	[ $(($(dmesg | wc -l) - lines)) -le 10 ] || die "the log grew by $(($(dmesg | wc -l) - lines)) lines"
	msg status | grep -q "Hash table size: 1048576" || die "$(msg status)"
	grep -q "^remap_entry " /proc/slabinfo || die "no remap_entry in slabinfo"
	set -- $(msg dump 0 | head -n 1)
	as ready "$2" "$3"
	want "dump 1000000 $3
remap 1999996 999998 1 0 0
remap 1999998 999999 1 0 0
end" msg dump 1999996
	dd if=$R of=/dev/null bs=4096 skip=1000 count=1 iflag=direct 2>/dev/null
	msg stats | grep -q "Remap hits: *4$" || die "$(msg stats)"
}

# The table that is reported is the one that serves, and it grows and shrinks.
case_hash_table() {
	plain
	dmesg -C
	for i in $(seq 0 199); do
		msg add_remap $((i * 100)) $((i * 50)) 50 >/dev/null
	done
	want 'Hash table size: 256' eval 'msg status | sed -n "s/^  \(Hash.*\)/\1/p"'
	want 'Load factor: 0.7' eval 'msg status | sed -n "s/^  \(Load.*\)/\1/p"'
	want 'Resize count: 2' eval 'msg status | sed -n "s/^  \(Resize.*\)/\1/p"'
	dmesg | grep -q "Adaptive hash table resize: 64 .* 128 buckets" || die "64 to 128 is not in the log"
	dmesg | grep -q "Adaptive hash table resize: 128 .* 256 buckets" || die "128 to 256 is not in the log"
	for i in $(seq 0 199); do
		msg remove_remap $((i * 100)) >/dev/null
	done
	dmesg | grep -q "Adaptive hash table resize: 256 .* 128 buckets" || die "256 to 128 is not in the log"
	want 'Hash table size: 64' eval 'msg status | sed -n "s/^  \(Hash.*\)/\1/p"'
}

# Writes to a watched range are counted, reads and writes elsewhere are not.
case_watch() {
	managed
	want "watch 1" as watch 1000 100 600000
	until_true 'msg watches | grep -q "watch 1 1000 100 armed 0 "'
	$io write $R 1099 2 1
	$io write $R 900 100 1
	$io write $R 1100 8 1
	$io read $R 1000 8 1 || true
	msg watches | grep -q "^watch 1 1000 100 armed 2 " || die "$(msg watches)"
	want "watch 2" as watch 1050 1 600000
	until_true 'msg watches | grep -q "watch 2 1050 1 armed 0 "'
	$io write $R 1000 100 2
	msg watches | grep -q "^watch 1 1000 100 armed 4 " || die "$(msg watches)"
	msg watches | grep -q "^watch 2 1050 1 armed 2 " || die "$(msg watches)"
	# A fence over it drains, and what the watch says then is final.
	drained 1000 100 5000
	$io write $R 1000 8 3 &
	sleep 0.3
	msg watches | grep -q "^watch 1 1000 100 armed 4 " || die "a write that waits was counted"
	as unfence "$fence"
	wait
	msg watches | grep -q "^watch 1 1000 100 armed 6 " || die "$(msg watches)"
	as unwatch 1
	refusedas "No such file" unwatch 1
	as watch 0 8 100 >/dev/null
	until_true '! msg watches | grep -q "^watch 3"'
	as unwatch 2
	want end msg watches
}

# A watch is not armed while a write that started before it is still under way.
case_watch_waits_for_writes() {
	dmsetup create m --table "0 $LEN delay $MAIN 0 0 $MAIN 0 8000"
	M=/dev/mapper/m managed
	$io write $R 1000 8 1 &
	sleep 1
	as watch 1000 8 600000 >/dev/null
	sleep 0.3
	msg watches | grep -q "^watch 1 1000 8 draining 0 " || die "$(msg watches)"
	wait
	# It counts as it comes back: it may have landed on what was copied since.
	until_true 'msg watches | grep -q "^watch 1 1000 8 armed 1 "'
}

# While a table with other spares is loaded nothing is mapped that it would orphan.
case_contested_load() {
	dmsetup create r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 5 managed spare /dev/ram2 closed 60000"
	own
	dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 3 managed closed 60000"
	refusedas "busy" load 0:0:8:1:0
	dmsetup clear r
	as load 0:0:8:1:0
	if dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 3 managed closed 60000" 2>/dev/null; then die "a spare in use went"; fi
}

# A spare more while I/O goes on: a write that fails when the tables already change places waits for its cure, and what the
# device knows, and who owns it, is as before.
case_spare_added_under_io() {
	truncate -s 32M /run/spare
	losetup /dev/loop0 /run/spare
	dmsetup create s <<-T
		0 8000 linear $MAIN 0
		8000 8 error
		8008 $((LEN - 8008)) linear $MAIN 8008
	T
	dmsetup create m --table "0 $LEN delay /dev/mapper/s 0 0 /dev/mapper/s 0 1500"
	M=/dev/mapper/m S=/dev/loop0
	managed reserve 16 24 hold 8000
	as secret $KEY
	fenced 100 8 20000
	as add_remap 100 200 8 0 fence="$fence" >/dev/null
	fenced 3000 8 4000
	until_true 'msg fences | grep -q "fence $fence 3000 8 failed"'
	want ok $io write $R 100 8 4
	n=$(flushes loop0)
	as lease 30000
	$io write $R 8000 8 5 >/run/w & w=$!
	sleep 0.5
	# It needs less reserved than the first one.
	dmsetup load r --table "0 $LEN dm-remap-v4 $M $S 8 managed reserve 16 8 hold 8000 spare /dev/ram2"
	want "" dmsetup resume --noflush --nolockfs r
	want 1 field 4
	want "$INSTANCE" field 8
	msg fences | grep -q "fence $fence 3000 8 failed" || die "$(msg fences)"
	want EIO $io read $R 3000 8
	until_true '[ $(field 10) = 1 ]'
	fenced 8000 8 20000
	as add_remap 8000 16 8 1 fence="$fence" >/dev/null
	wait $w || die "write: $(cat /run/w)"
	want ok $io check /dev/ram2 16 8 5 8000
	want ok $io check $R 100 8 4
	want ok $io flush $R
	want $((n + 1)) flushes loop0
	msg errors 0 | grep -q "healed write spare1 8000 16 8" || die "$(msg errors 0)"
	if msg errors 0 | grep -q "failed write"; then die "$(msg errors 0)"; fi
}

# A table may reserve less than the one before, not more. Until it is in force nothing is mapped.
case_reserve_shrinks() {
	managed reserve 16 24
	dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 6 managed reserve 8 8 spare /dev/ram2"
	fenced 100 8 5000
	refusedas "busy" add_remap 100 200 8 0 fence="$fence"
	dmsetup resume r
	as add_remap 100 8 8 1 fence="$fence" >/dev/null
	if dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 6 managed reserve 16 24 spare /dev/ram2" 2>/dev/null; then
		die "what lies in the reserve was orphaned"
	fi
}

# A spare more by a reload; it cannot go while a remap lives there.
case_spare_added() {
	managed
	dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 3 managed spare /dev/ram2"
	dmsetup suspend r
	dmsetup resume r
	fenced 8000 8 5000
	as add_remap 8000 0 8 1 fence=$fence >/dev/null
	if dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 1 managed" 2>/dev/null; then die "a spare in use went"; fi
	if dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 3 managed spare /dev/ram3" 2>/dev/null; then die "a spare was exchanged"; fi
	fenced 8000 8 5000
	as remove_remap 8000 fence=$fence >/dev/null
	dmsetup load r --table "0 $LEN dm-remap-v4 $MAIN $SPARE 1 managed"
	dmsetup suspend r
	dmsetup resume r
	want "0 $LEN dm-remap-v4 1:0 1:1 1 managed" dmsetup table r
}
