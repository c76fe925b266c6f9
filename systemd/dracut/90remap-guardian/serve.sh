#!/bin/sh
# dracut: it is decided that nothing is resumed. From here on bad sectors are cured, also those that mounting the root file
# system meets, by a daemon that the real system's one takes over from.
/usr/sbin/remap-guardian run --early
