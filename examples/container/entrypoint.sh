#!/bin/bash
# Runs the container's command under SMC. exec: the program is process 1 and gets the signals of `podman stop`.
#   podman run -e SMC_DISABLE=1 ...      the same image over TCP
#   podman run -e SMC_UPGRADE_AFTER=0 ...   any other setting
exec /usr/local/bin/smc_run -- "$@"
