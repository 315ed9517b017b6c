//! The levels below and beside TCP, and whatever no row names.

use super::{After, Before, Level, Row, When};
use crate::reason::Detail;

const IP: &[Row] = rows! {
    Level::Ip;
    [16, 17] "IP_IPSEC_POLICY, IP_XFRM_POLICY", N, Before::StaysTcp(When::Accepted), After::Returns(When::Always), StaysTcp, Tcp, Some(Detail::IpsecPolicy),
        "bytes of the ring would pass no policy";
    [15, 19, 24, 51, 80] "IP_FREEBIND, IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE, SO_ORIGINAL_DST", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "act on addresses, at bind and connect";
    [1, 2, 10, 14, 21, 4] "IP_TOS, IP_TTL, IP_MTU_DISCOVER, IP_MTU, IP_MINTTL, IP_OPTIONS", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "shape packets";
    [11, 8, 6, 26] "IP_RECVERR, IP_PKTINFO, IP_RECVOPTS, IP_RECVERR_RFC4884", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "tell of packets";
    [23] "IP_CHECKSUM", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "concerns datagrams";
    [34] "IP_MULTICAST_LOOP", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "concerns datagrams";
    [] "any other of SOL_IP", M, Before::Pass, After::Pass, AsTcp, Tcp, None,
        "concerns packets or datagrams, or TCP refuses it";
};

const IPV6: &[Row] = rows! {
    Level::Ipv6;
    [26, 78, 75, 72] "IPV6_V6ONLY, IPV6_FREEBIND, IPV6_TRANSPARENT, IPV6_ADDR_PREFERENCES", Y, Before::Pass, After::Pass, Yes, Tcp, None,
        "act on addresses, at bind and connect";
    [16, 67, 70, 24, 25, 49, 66] "IPV6_UNICAST_HOPS, IPV6_TCLASS, IPV6_AUTOFLOWLABEL, IPV6_MTU, IPV6_RECVERR, IPV6_RECVPKTINFO, IPV6_RECVTCLASS", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "shape packets or tell of them";
    [23] "IPV6_MTU_DISCOVER", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "shapes packets";
    [33] "IPV6_FLOWINFO_SEND", M, Before::Pass, After::Pass, Yes, Tcp, None,
        "shapes packets";
    [34, 35] "IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY", N, Before::StaysTcp(When::Accepted), After::Returns(When::Always), StaysTcp, Tcp, Some(Detail::IpsecPolicy),
        "bytes of the ring would pass no policy";
    [] "any other of SOL_IPV6", M, Before::Pass, After::Pass, AsTcp, Tcp, None,
        "concerns packets or datagrams, or TCP refuses it";
};

/// The program has a TCP socket, so it gets what TCP says to options of an SMC socket: ENOPROTOOPT.
const SMC: &[Row] = rows! {
    Level::Smc;
    [1] "SMC_LIMIT_HS", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "an option of AF_SMC sockets; here there is no handshake to limit";
    [] "any other of SOL_SMC", Y, Before::Refused, After::Refused, NotApplicable, Tcp, None,
        "options of AF_SMC sockets";
};

const REST: &[Row] = rows! {
    Level::Other;
    [] "any of SOL_MPTCP and other levels", M, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "TCP answers";
};

const TLS: &[Row] = rows! {
    Level::Tls;
    [] "any of SOL_TLS", M, Before::Pass, After::Pass, NotApplicable, Tcp, None,
        "TCP refuses it without TCP_ULP";
};

const SOCKET: &[Row] = rows! {
    Level::Socket;
    [] "any other of SOL_SOCKET", M, Before::Pass, After::Pass, AsTcp, Tcp, None,
        "not known; TCP answers";
};

const TCP: &[Row] = rows! {
    Level::Tcp;
    [] "any other of SOL_TCP", M, Before::Pass, After::Pass, AsTcp, Tcp, None,
        "not known; TCP answers";
};

const LEN: usize = SOCKET.len() + TCP.len() + IP.len() + IPV6.len() + SMC.len() + TLS.len() + REST.len();

const fn joined() -> [Row; LEN] {
    let mut rows = [SOCKET[0]; LEN];
    let parts = [SOCKET, TCP, IP, IPV6, SMC, TLS, REST];
    let (mut part, mut to) = (0, 0);
    while part < parts.len() {
        let mut from = 0;
        while from < parts[part].len() {
            rows[to] = parts[part][from];
            from += 1;
            to += 1;
        }
        part += 1;
    }
    rows
}

pub(super) static ROWS: &[Row] = &joined();

/// The row for what no other row of the level names.
pub(super) fn rest_of(level: Level) -> &'static Row {
    let rest = ROWS.iter().find(|row| row.level == level && row.numbers.is_empty());
    rest.unwrap_or(&ROWS[LEN - 1])
}
