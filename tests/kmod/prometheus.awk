# SPDX-License-Identifier: GPL-2.0-only
# Is the input Prometheus text, of the strict kind that dm-remap writes? Families
# of HELP, TYPE and samples, in this order; counters, and only they, end in
# _total; one label, device; whole numbers. Prints the number of samples.
function wrong(why) {
	print "line " NR ": " why ": " $0
	failed = 1
	exit 1
}
BEGIN { name = "[a-zA-Z_][a-zA-Z0-9_]*" }
/^# HELP / {
	if ($3 !~ "^" name "$" || NF < 4) wrong("bad HELP")
	if ($3 in families) wrong("family given twice")
	if (expect == "TYPE") wrong("HELP without TYPE")
	families[family = $3] = 1
	expect = "TYPE"
	next
}
/^# TYPE / {
	if (expect != "TYPE" || $3 != family || NF != 4) wrong("TYPE does not follow its HELP")
	if ($4 != "counter" && $4 != "gauge") wrong("bad type")
	if (($4 == "counter") != (family ~ /_total$/)) wrong("name does not fit the type")
	expect = "samples"
	next
}
{
	if (expect != "samples") wrong("sample without HELP and TYPE")
	if ($0 !~ "^" name "{device=\"dm-[0-9]+\"} +[0-9]+$") wrong("bad sample")
	if (substr($0, 1, index($0, "{") - 1) != family) wrong("sample of another family")
	if ($1 in series) wrong("series given twice")
	series[$1] = 1
	n++
}
END {
	if (failed) exit 1
	if (expect == "TYPE") wrong("HELP without TYPE")
	print n + 0
}
