/* What the BPF programs and their users agree on. smc-core/src/capability.rs has the same numbers; a test of smcctl
 * compares them. */
#ifndef SMC_TCP_OPTION_H
#define SMC_TCP_OPTION_H

/* The level of the private socket options, "SMCR" in ASCII: no protocol of the kernel has it. */
#define SMC_OPTION_LEVEL 0x534d4352

/* Set and get, 4 bytes in host byte order: 1 asks for the option at the next connect or listen, 0 takes it back.
 * Sockets accepted from a listener inherit it. */
#define SMC_OPTION_WANTED 1

/* Get, 4 bytes in host byte order: what the peer's SYN or SYN-ACK said. */
#define SMC_OPTION_PEER 2

enum smc_option_peer {
	SMC_PEER_UNKNOWN = 0, /* not asked for, or the handshake is not over */
	SMC_PEER_ABSENT = 1,  /* the peer did not send the option, or ours found no room */
	SMC_PEER_CAPABLE = 2, /* the peer sent it */
	SMC_PEER_ECHOES = 3,  /* the peer sent back an option that nobody implements, so ours means nothing either */
};

#endif
