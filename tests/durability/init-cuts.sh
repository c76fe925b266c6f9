#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Process 1 of the kernel in which power fails (src/cuts.rs).
. "$RG_HERE/init-common.sh"
"$RG_TOOL" cuts --seed "$RG_SEED" --cuts "$RG_CUTS" "$RG_PROGRAM" || failed "see above; again: CUTS=$RG_CUTS tests/durability/cuts $RG_SEED"
end
