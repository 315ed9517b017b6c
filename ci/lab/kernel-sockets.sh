#!/bin/bash
# Fails unless this machine's kernel has open SMC connections, and what carries all of them is as said.
# Usage, in a machine of the lab: kernel-sockets.sh 'SMCR CLNT rxe0/1'|'SMCR SERV rxe0/1'|'TCP REASON[/PEER-REASON]' [STATES]
# STATES: a pattern for those that count as open, else ACTIVE alone.
"$LAB_BIN/smcr" sockets | awk -v wanted="$1" -v states="${2:-^ACTIVE$}" '
    { all = all $0 "\n" }
    $1 ~ states {
        print
        carrier = $6
        for (i = 7; i <= NF && i <= 8; i++) carrier = carrier " " $i
        open++
        if (carrier == wanted) good++
    }
    END {
        if (!open || good != open) { printf "%s", all; print "these are not all " wanted; exit 1 }
    }'
