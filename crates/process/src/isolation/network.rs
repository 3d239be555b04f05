//! Network namespace for this process and everything that it starts: a loopback device, no other, and so no route
//! outside.

use std::{
    fs,
    io::{self, Error},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        socket,
    },
};

use super::{Denied, namespaces};

/// Leaves all existing networks. This process must have a single thread, and keeps its user. Where there is only a
/// loopback device anyway, as in a container without a network, nothing happens.
///
/// # Errors
/// If the kernel, or its configuration, does not allow us a namespace.
pub fn leave() -> Result<(), Denied> {
    if is_alone(&fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default()) {
        return Ok(());
    }
    // If a network namespace is possible without a user namespace, access to files stays unchanged.
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        let dumpable = |is| {
            nix::sys::prctl::set_dumpable(is)
                .map_err(|error| Denied::kernel("open our files below /proc to us", error))
        };
        // Files below `/proc/self` belong to root while this process is not dumpable.
        dumpable(true)?;
        let entered = namespaces::enter_with(CloneFlags::CLONE_NEWNET);
        dumpable(false)?;
        entered?;
    }
    start_loopback().map_err(|error| Denied::kernel("start the loopback device", error))
}

/// Returns whether a list of devices in the form of `/proc/net/dev` names the loopback device alone, and that works.
fn is_alone(devices: &str) -> bool {
    let names = devices.lines().filter_map(|line| line.split_once(':'));
    let mut names = names.map(|(name, _)| name.trim());
    // Nothing is sent: the kernel looks for a route.
    let works = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.connect((Ipv4Addr::LOCALHOST, 9));
    names.next() == Some("lo") && names.next().is_none() && works().is_ok()
}

/// Constants of the kernel's rtnetlink interface.
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_AND_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;

/// Index of the loopback device, which is always the first in a new network.
const LOOPBACK_INDEX: i32 = 1;

/// Starts the loopback device over rtnetlink.
///
/// # Source
/// <https://man7.org/linux/man-pages/man7/rtnetlink.7.html>
fn start_loopback() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    bind(socket.as_raw_fd(), &kernel)?;
    sendto(
        socket.as_raw_fd(),
        &up(LOOPBACK_INDEX),
        &kernel,
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    refusal(&answer[..length]).map_or(Ok(()), Err)
}

/// Builds the request: a header of 16 bytes and an `ifinfomsg` of as many.
fn up(index: i32) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]); // Sequence and port.
    message.extend([0; 4]); // Family and kind.
    message.extend(index.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // The flags to set,
    message.extend(IFF_UP.to_ne_bytes()); // and the mask of flags to change.
    message
}

/// Returns the error in an answer; an acknowledgement is an error of zero.
fn refusal(answer: &[u8]) -> Option<Error> {
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok());
    let code = answer.get(16..20).and_then(|code| code.try_into().ok());
    match (kind.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => None,
        (Some(NLMSG_ERROR), Some(code)) => Some(Error::from_raw_os_error(-code)),
        _ => Some(Error::other("the kernel gave no answer to this")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_nothing_but_a_loopback_device_is_alone() {
        let head = "Inter-|   Receive\n face |bytes    packets\n";
        let (lo, eth) = ("    lo:  100  1 0\n", "  eth0:  100  1 0\n");

        assert!(is_alone(&format!("{head}{lo}")));
        for devices in [
            head,
            &format!("{head}{lo}{eth}"),
            &format!("{head}{eth}"),
            "",
        ] {
            assert!(!is_alone(devices), "{devices}");
        }
    }
}
