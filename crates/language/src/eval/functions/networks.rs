//! Functions of network addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Args, Called, args::list_of};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "cidrhost" => host(args),
        "cidrnetmask" => network(args, 0).and_then(|net| match net {
            IpNet::V4(net) => Ok(net.netmask().to_string().into()),
            IpNet::V6(_) => Err("IPv6 addresses have no netmask".to_owned()),
        }),
        "cidrsubnet" => subnet(args),
        "cidrsubnets" => subnets(args),
        _ => return None,
    })
}

fn network(args: &Args<'_>, index: usize) -> Result<IpNet, String> {
    let text = args.text(index)?;
    let net: Result<IpNet, _> = text.parse();
    let wrong = |_| format!("invalid CIDR expression: {text:?}");
    net.map(|net| net.trunc()).map_err(wrong)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(net: &IpNet, bits: u128) -> Result<IpAddr, String> {
    match net {
        IpNet::V4(_) => u32::try_from(bits)
            .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
            .map_err(|_| "the address is out of range".to_owned()),
        IpNet::V6(_) => Ok(IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

/// Returns the address of a host; a negative number counts from the end.
fn host(args: &Args<'_>) -> Called {
    let (net, number) = (network(args, 0)?, args.whole(1)?);
    let free = u32::from(net.max_prefix_len() - net.prefix_len());
    let last = 1u128.checked_shl(free).map_or(u128::MAX, |size| size - 1);
    let wrong = || {
        format!(
            "prefix of {} does not accommodate a host numbered {number}",
            net.prefix_len()
        )
    };
    let offset = match u128::try_from(number) {
        Ok(offset) => offset,
        Err(_) => (last + u128::from(free < 128))
            .checked_sub(u128::from(number.unsigned_abs()))
            .ok_or_else(wrong)?,
    };
    if offset > last {
        return Err(wrong());
    }
    Ok(address(&net, bits(net.network()) + offset)?
        .to_string()
        .into())
}

fn subnet(args: &Args<'_>) -> Called {
    let (net, new_bits, number) = (network(args, 0)?, args.whole(1)?, args.whole(2)?);
    let length = extended(&net, new_bits)?;
    let number = u128::try_from(number).map_err(|_| "the number must not be negative")?;
    let new_bits = u32::from(length - net.prefix_len());
    if 1u128
        .checked_shl(new_bits)
        .is_some_and(|count| number >= count)
    {
        return Err(format!(
            "prefix extension of {new_bits} does not accommodate a subnet numbered {number}"
        ));
    }
    let shift = u32::from(net.max_prefix_len() - length);
    let offset = number.checked_shl(shift).unwrap_or(0);
    written(address(&net, bits(net.network()) + offset)?, length)
}

fn extended(net: &IpNet, new_bits: i64) -> Result<u8, String> {
    let wrong = || format!("not enough remaining address space for {new_bits} more bits");
    let new_bits = u8::try_from(new_bits).map_err(|_| wrong())?;
    let length = net.prefix_len().checked_add(new_bits);
    length
        .filter(|length| *length <= net.max_prefix_len())
        .ok_or_else(wrong)
}

fn written(address: IpAddr, length: u8) -> Called {
    Ok(format!("{address}/{length}").into())
}

/// Returns subnets of given sizes in sequence, each at the next aligned address.
fn subnets(args: &Args<'_>) -> Called {
    let net = network(args, 0)?;
    let (mut next, mut found) = (bits(net.network()), Vec::new());
    let end = bits(net.broadcast());
    let mut is_full = false;
    for index in 1..args.all().len() {
        let length = extended(&net, args.whole(index)?)?;
        let free = u32::from(net.max_prefix_len() - length);
        let rest = 1u128.checked_shl(free).map_or(u128::MAX, |size| size - 1);
        let start = next.checked_add(rest).map(|start| start & !rest);
        let start = start.filter(|start| !is_full && start.saturating_add(rest) <= end);
        let start = start.ok_or("not enough remaining address space for all subnets")?;
        found.push(format!("{}/{length}", address(&net, start)?));
        is_full = start + rest == u128::MAX;
        next = (start + rest).wrapping_add(1);
    }
    Ok(list_of(found))
}
