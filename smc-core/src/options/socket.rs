//! SOL_SOCKET, numbers 1 to 80.

use super::{After, Before, Level, Row, When};
use crate::reason::Detail;

pub(super) const ROWS: &[Row] = rows! {
    Level::Socket;
    [1] "SO_DEBUG", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "a flag without effect on data";
    [2] "SO_REUSEADDR", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "acts on bind, which TCP does";
    [3] "SO_TYPE", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "SOCK_STREAM, from the TCP socket";
    [4] "SO_ERROR", Y, Before::GetOnly, After::Apply, No, Both, None,
        "an error that the engine met is reported once, as one of TCP is";
    [5] "SO_DONTROUTE", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "chooses the route of connect, which TCP does";
    [6] "SO_BROADCAST", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "without effect on a stream";
    [7] "SO_SNDBUF", Y, Before::Pass, After::Pass, Yes, Both, None,
        "set before a connection moves, it sizes the ring; TCP keeps a buffer of its own";
    [8] "SO_RCVBUF", Y, Before::Pass, After::Pass, Yes, Both, None,
        "set before a connection moves, it sizes the ring; TCP keeps a buffer of its own";
    [9] "SO_KEEPALIVE", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "the TCP connection stays open beside the ring and its probes tell whether the peer is there";
    [10] "SO_OOBINLINE", Y, Before::Pass, After::Pass, Yes, Both, None,
        "urgent data travels over TCP, which places it";
    [11] "SO_NO_CHECK", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "without effect on a stream";
    [12] "SO_PRIORITY", M, Before::Pass, After::Pass, No, Tcp, None,
        "queues packets, of which the ring has none";
    [13] "SO_LINGER", Y, Before::Pass, After::Pass, Yes, Both, None,
        "TCP makes the wait and the reset; what is in the ring has reached the peer already";
    [14] "SO_BSDCOMPAT", Y, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "Linux ignores it";
    [15] "SO_REUSEPORT", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "TCP spreads connections over listeners";
    [16] "SO_PASSCRED", Y, Before::Pass, After::Pass, No, Tcp, None,
        "TCP has no credentials to pass";
    [17] "SO_PEERCRED", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "what TCP says";
    [18] "SO_RCVLOWAT", Y, Before::Pass, After::Apply, Yes, Both, None,
        "reads and readiness count bytes of the ring and of TCP together";
    [19] "SO_SNDLOWAT", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "fixed at 1";
    [20] "SO_RCVTIMEO_OLD", Y, Before::Pass, After::Apply, Yes, Both, None,
        "limits reads from the ring too";
    [21] "SO_SNDTIMEO_OLD", Y, Before::Pass, After::Apply, Yes, Both, None,
        "limits writes to the ring too";
    [22] "SO_SECURITY_AUTHENTICATION", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "Linux implements nothing under this number";
    [23] "SO_SECURITY_ENCRYPTION_TRANSPORT", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "Linux implements nothing under this number";
    [24] "SO_SECURITY_ENCRYPTION_NETWORK", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "Linux implements nothing under this number";
    [25] "SO_BINDTODEVICE", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "binds the TCP socket";
    [26] "SO_ATTACH_FILTER", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "filters packets of TCP; what takes the ring passes no filter";
    [27] "SO_DETACH_FILTER", M, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "undoes SO_ATTACH_FILTER";
    [28] "SO_PEERNAME", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "the address of the TCP connection";
    [29] "SO_TIMESTAMP_OLD", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "stamps packets; bytes of the ring come without";
    [30] "SO_ACCEPTCONN", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "the TCP socket listens";
    [31] "SO_PEERSEC", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "what the security module says of the TCP socket";
    [32] "SO_SNDBUFFORCE", Y, Before::Pass, After::Pass, Yes, Both, None,
        "as SO_SNDBUF, for the privileged";
    [33] "SO_RCVBUFFORCE", Y, Before::Pass, After::Pass, Yes, Both, None,
        "as SO_RCVBUF, for the privileged";
    [34] "SO_PASSSEC", Y, Before::Pass, After::Pass, No, Tcp, None,
        "TCP has no labels to pass";
    [35] "SO_TIMESTAMPNS_OLD", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_TIMESTAMP_OLD";
    [36] "SO_MARK", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "steers packets";
    [37] "SO_TIMESTAMPING_OLD", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "stamps packets; bytes of the ring come without";
    [38] "SO_PROTOCOL", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "IPPROTO_TCP";
    [39] "SO_DOMAIN", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "AF_INET or AF_INET6";
    [40] "SO_RXQ_OVFL", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "without effect on a stream";
    [41] "SO_WIFI_STATUS", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "without effect on a stream";
    [42] "SO_PEEK_OFF", N, Before::StaysTcp(When::NotNegative), After::Returns(When::NotNegative), StaysTcp, Tcp, Some(Detail::PeekOffset),
        "peeks into the ring begin at the next byte to be read";
    [43] "SO_NOFCS", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "without effect on a stream";
    [44] "SO_LOCK_FILTER", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "locks a filter of packets";
    [45] "SO_SELECT_ERR_QUEUE", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "the ring has no error queue";
    [46] "SO_BUSY_POLL", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "polls the queue of a network card";
    [47] "SO_MAX_PACING_RATE", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "paces packets";
    [48] "SO_BPF_EXTENSIONS", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "a constant of the kernel";
    [49] "SO_INCOMING_CPU", M, Before::Pass, After::Pass, Own, Tcp, None,
        "tells where packets are processed";
    [50] "SO_ATTACH_BPF", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_ATTACH_FILTER";
    [51] "SO_ATTACH_REUSEPORT_CBPF", Y, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "chooses the listener of a SYN";
    [52] "SO_ATTACH_REUSEPORT_EBPF", Y, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "chooses the listener of a SYN";
    [53] "SO_CNX_ADVICE", M, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "drops TCP's route";
    [54] "SCM_TIMESTAMPING_OPT_STATS", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "the number of a control message";
    [55] "SO_MEMINFO", M, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "tells of TCP's memory";
    [56] "SO_INCOMING_NAPI_ID", M, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "tells of packets";
    [57] "SO_COOKIE", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "the identity of the TCP socket";
    [58] "SCM_TIMESTAMPING_PKTINFO", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "the number of a control message";
    [59] "SO_PEERGROUPS", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "what TCP says";
    [60] "SO_ZEROCOPY", N, Before::StaysTcp(When::One), After::Returns(When::One), StaysTcp, Tcp, Some(Detail::ZeroCopy),
        "the ring copies and has no error queue to report completion by";
    [61] "SO_TXTIME", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "dates packets";
    [62] "SO_BINDTOIFINDEX", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "binds the TCP socket";
    [63] "SO_TIMESTAMP_NEW", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_TIMESTAMP_OLD";
    [64] "SO_TIMESTAMPNS_NEW", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_TIMESTAMP_OLD";
    [65] "SO_TIMESTAMPING_NEW", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_TIMESTAMPING_OLD";
    [66] "SO_RCVTIMEO_NEW", Y, Before::Pass, After::Apply, Yes, Both, None,
        "as SO_RCVTIMEO_OLD";
    [67] "SO_SNDTIMEO_NEW", Y, Before::Pass, After::Apply, Yes, Both, None,
        "as SO_SNDTIMEO_OLD";
    [68] "SO_DETACH_REUSEPORT_BPF", Y, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "chooses the listener of a SYN";
    [69] "SO_PREFER_BUSY_POLL", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_BUSY_POLL";
    [70] "SO_BUSY_POLL_BUDGET", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_BUSY_POLL";
    [71] "SO_NETNS_COOKIE", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "the identity of the network namespace";
    [72] "SO_BUF_LOCK", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "fixes TCP's buffers; rings do not grow";
    [73] "SO_RESERVE_MEM", M, Before::Pass, After::Pass, No, Tcp, None,
        "reserves memory for TCP";
    [74] "SO_TXREHASH", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "chooses paths of packets";
    [75] "SO_RCVMARK", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "TCP passes no marks to readers";
    [76] "SO_PASSPIDFD", Y, Before::Pass, After::Pass, No, Tcp, None,
        "TCP has no credentials to pass";
    [77] "SO_PEERPIDFD", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "what TCP says";
    [78] "SO_DEVMEM_LINEAR", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "the number of a control message";
    [79] "SO_DEVMEM_DMABUF", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "the number of a control message";
    [80] "SO_DEVMEM_DONTNEED", M, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "gives device memory back; the ring uses none";
};
