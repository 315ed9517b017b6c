//! SOL_TCP, numbers 1 to 43.

use super::{After, Before, Level, Row, When};
use crate::reason::Detail;

pub(super) const ROWS: &[Row] = rows! {
    Level::Tcp;
    [1] "TCP_NODELAY", Y, Before::Pass, After::Apply, Yes, Both, None,
        "the ring never delays; setting it pushes what is held back";
    [2] "TCP_MAXSEG", M, Before::Pass, After::Pass, Own, Tcp, None,
        "the ring has no segments";
    [3] "TCP_CORK", Y, Before::Pass, After::Apply, Yes, Both, None,
        "the ring holds back less than a record until uncorked, 200 ms at most";
    [4] "TCP_KEEPIDLE", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_KEEPALIVE";
    [5] "TCP_KEEPINTVL", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_KEEPALIVE";
    [6] "TCP_KEEPCNT", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "as SO_KEEPALIVE";
    [7] "TCP_SYNCNT", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "acts on connect, which TCP does";
    [8] "TCP_LINGER2", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "limits FIN_WAIT2 of the TCP socket";
    [9] "TCP_DEFER_ACCEPT", Y, Before::Pass, After::Pass, No, Tcp, None,
        "connections begin on TCP, which does the waiting";
    [10] "TCP_WINDOW_CLAMP", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "limits TCP's window, not the ring";
    [11] "TCP_INFO", M, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "tells of the TCP part";
    [12] "TCP_QUICKACK", M, Before::Pass, After::Pass, Own, Tcp, None,
        "the ring needs no acknowledgements";
    [13] "TCP_CONGESTION", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "the ring knows no congestion";
    [14] "TCP_MD5SIG", N, Before::StaysTcp(When::Key), After::Returns(When::Key), StaysTcp, Tcp, Some(Detail::Signature),
        "bytes of the ring are not signed";
    [15] "TCP_COOKIE_TRANSACTIONS", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "removed from Linux";
    [16] "TCP_THIN_LINEAR_TIMEOUTS", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "tunes retransmission";
    [17] "TCP_THIN_DUPACK", M, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "Linux ignores it";
    [18] "TCP_USER_TIMEOUT", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "limits how long data of TCP may be unacknowledged, and keepalive";
    [19] "TCP_REPAIR", N, Before::StaysTcp(When::One), After::Returns(When::One), StaysTcp, Tcp, Some(Detail::Repair),
        "a socket in repair mode sends nothing, so that the engine would not see the end";
    [20] "TCP_REPAIR_QUEUE", N, Before::Pass, After::TcpDecides, StaysTcp, Tcp, Some(Detail::Repair),
        "TCP refuses it outside repair mode";
    [21] "TCP_QUEUE_SEQ", N, Before::Pass, After::TcpDecides, StaysTcp, Tcp, Some(Detail::Repair),
        "TCP refuses it outside repair mode";
    [22] "TCP_REPAIR_OPTIONS", N, Before::Pass, After::TcpDecides, StaysTcp, Tcp, Some(Detail::Repair),
        "TCP refuses it outside repair mode";
    [23] "TCP_FASTOPEN", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::FastOpen),
        "data would travel before there is a connection";
    [24] "TCP_TIMESTAMP", M, Before::Pass, After::Pass, No, Tcp, None,
        "sets TCP's clock, in repair mode";
    [25] "TCP_NOTSENT_LOWAT", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "limits TCP's queue; writability comes from the ring's space";
    [26] "TCP_CC_INFO", M, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "tells of the TCP part";
    [27] "TCP_SAVE_SYN", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "the SYN is a packet of TCP";
    [28] "TCP_SAVED_SYN", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "the SYN is a packet of TCP";
    [29] "TCP_REPAIR_WINDOW", N, Before::Pass, After::TcpDecides, StaysTcp, Tcp, Some(Detail::Repair),
        "TCP refuses it outside repair mode";
    [30] "TCP_FASTOPEN_CONNECT", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::FastOpen),
        "connect would return before there is a connection";
    [31] "TCP_ULP", N, Before::StaysTcp(When::Always), After::Fails(libc::EOPNOTSUPP), StaysTcp, Tcp, Some(Detail::Ulp),
        "kernel TLS works on segments of TCP; refused on a connection, so that TLS libraries go on without it";
    [32] "TCP_MD5SIG_EXT", N, Before::StaysTcp(When::Key), After::Returns(When::Key), StaysTcp, Tcp, Some(Detail::Signature),
        "as TCP_MD5SIG";
    [33] "TCP_FASTOPEN_KEY", N, Before::StaysTcp(When::Accepted), After::Fails(libc::EINVAL), StaysTcp, Tcp, Some(Detail::FastOpen),
        "as TCP_FASTOPEN";
    [34] "TCP_FASTOPEN_NO_COOKIE", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::FastOpen),
        "as TCP_FASTOPEN";
    [35] "TCP_ZEROCOPY_RECEIVE", M, Before::GetOnly, After::Engine, NotApplicable, Engine, None,
        "nothing of the ring can be mapped: the answer sends the program to recv";
    [36] "TCP_INQ", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "comes as a control message, of which the ring has none";
    [37] "TCP_TX_DELAY", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "delays packets";
    [38] "TCP_AO_ADD_KEY", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::Signature),
        "as TCP_MD5SIG";
    [39] "TCP_AO_DEL_KEY", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::Signature),
        "as TCP_MD5SIG";
    [40] "TCP_AO_INFO", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::Signature),
        "can make signatures mandatory";
    [41] "TCP_AO_GET_KEYS", M, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "a moved connection has no keys";
    [42] "TCP_AO_REPAIR", N, Before::StaysTcp(When::Accepted), After::TcpDecides, StaysTcp, Tcp, Some(Detail::Signature),
        "TCP refuses it outside repair mode";
    [43] "TCP_IS_MPTCP", Y, Before::GetOnly, After::GetOnly, NotApplicable, Tcp, None,
        "0: MPTCP sockets are left alone";
};
