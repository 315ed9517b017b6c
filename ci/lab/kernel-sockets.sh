#!/bin/bash
# Fails unless this machine's kernel has open SMC connections, and what carries all of them is as said.
# Usage, in a machine of the lab: kernel-sockets.sh 'SMCR CLNT rxe0/1'|'SMCR SERV rxe0/1'|'TCP REASON[/PEER-REASON]'
"$LAB_BIN/smcr" sockets | awk -v wanted="$1" '
    $1 == "ACTIVE" {
        print
        carrier = $6
        for (i = 7; i <= NF && i <= 8; i++) carrier = carrier " " $i
        open++
        if (carrier == wanted) good++
    }
    END {
        if (!open || good != open) { print "these are not all " wanted; exit 1 }
    }'
