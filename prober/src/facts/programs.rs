//! BPF programs that devices run: XDP, classifiers of clsact and ingress, and tcx. Where one drops a packet, the kernel
//! tells that one did, and not which.
//!
//! A device's XDP programs come with the device; classifiers are dumped where a device has a place for them; tcx has a
//! system call of its own. The kernel tells an id, and a name to those who may ask for any program by its id.

use std::collections::BTreeMap;

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkXdp;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use waymark_proto::{DeviceProgram, Link, ProgramPoint};

use super::Missing;
use super::netlink::{Netlink, NetlinkError};

/// The XDP programs in a device's message, without names.
pub(super) fn of_xdp(device: &str, infos: &[LinkXdp]) -> Vec<DeviceProgram> {
    let program = |info: &LinkXdp| {
        let (point, id) = match *info {
            LinkXdp::DrvProgId(id) => (ProgramPoint::XdpDriver, id),
            LinkXdp::SkbProgId(id) => (ProgramPoint::XdpGeneric, id),
            LinkXdp::HwProgId(id) => (ProgramPoint::XdpHardware, id),
            _ => return None,
        };
        Some(DeviceProgram { device: device.to_owned(), point, id: Some(id), name: None })
    };
    infos.iter().filter_map(program).collect()
}

/// The programs of the thread's namespace: `xdp`, which the devices' messages told, and what classifies on them.
pub(super) fn read(
    netlink: &mut Netlink,
    links: &[Link],
    xdp: Vec<DeviceProgram>,
    missing: &mut Missing,
) -> Result<Vec<DeviceProgram>, NetlinkError> {
    let mut programs = xdp;
    for (index, points) in places(netlink, missing)? {
        let Some(link) = links.iter().find(|link| link.index == index) else { continue };
        for &point in points {
            programs.extend(filters(netlink, link, point, missing)?);
        }
    }
    programs.extend(links.iter().flat_map(tcx));
    name(&mut programs);
    programs.sort();
    Ok(programs)
}

/// The devices with a place for classifiers that may drop, by index.
fn places(
    netlink: &mut Netlink,
    missing: &mut Missing,
) -> Result<BTreeMap<u32, &'static [ProgramPoint]>, NetlinkError> {
    let dump = netlink.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
    missing.remarks("programs", dump.remarks);
    let place = |message| {
        let RouteNetlinkMessage::NewQueueDiscipline(TcMessage { header, attributes, .. }) = message else {
            return None;
        };
        let kind = attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        });
        let points: &[ProgramPoint] = match kind? {
            "clsact" => &[ProgramPoint::TcIngress, ProgramPoint::TcEgress],
            "ingress" => &[ProgramPoint::TcIngress],
            _ => return None,
        };
        Some((header.index.cast_unsigned(), points))
    };
    Ok(dump.messages.into_iter().filter_map(place).collect())
}

/// The BPF classifiers at one side of a device.
fn filters(
    netlink: &mut Netlink,
    link: &Link,
    point: ProgramPoint,
    missing: &mut Missing,
) -> Result<Vec<DeviceProgram>, NetlinkError> {
    let minor = if point == ProgramPoint::TcEgress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    let mut request = TcMessage::default();
    request.header.index = link.index.cast_signed();
    request.header.parent = TcHandle { major: u16::MAX, minor };
    let dump = match netlink.dump(&RouteNetlinkMessage::GetTrafficFilter(request)) {
        // The device has just gone.
        Err(NetlinkError::Refused(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(Vec::new());
        }
        dump => dump?,
    };
    missing.remarks("programs", dump.remarks);
    let filter = |message| match message {
        RouteNetlinkMessage::NewTrafficFilter(filter) => classifier(&link.name, point, &filter),
        _ => None,
    };
    Ok(dump.messages.into_iter().filter_map(filter).collect())
}

/// A filter, if it is of kind `bpf`. One of classic BPF has neither name nor id.
fn classifier(device: &str, point: ProgramPoint, filter: &TcMessage) -> Option<DeviceProgram> {
    let kind = TcAttribute::Kind("bpf".to_owned());
    if !filter.attributes.contains(&kind) {
        return None;
    }
    let mut program = DeviceProgram { device: device.to_owned(), point, id: None, name: None };
    let mut told = false;
    for attribute in &filter.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        told = true;
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program.id = Some(*id),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => program.name = Some(name.clone()),
                _ => {}
            }
        }
    }
    // A dump has the filters' head, too, which is none.
    told.then_some(program)
}

/// The tcx programs of a device; none on kernels before 6.6, which do not know them.
fn tcx(link: &Link) -> Vec<DeviceProgram> {
    let sides =
        [(TcAttachType::Ingress, ProgramPoint::TcIngress), (TcAttachType::Egress, ProgramPoint::TcEgress)];
    let programs = sides.map(|(side, point)| {
        let told = SchedClassifier::query_tcx(&link.name, side).map_or(Vec::new(), |(_, programs)| programs);
        told.into_iter().map(move |info| DeviceProgram {
            device: link.name.clone(),
            point,
            id: Some(info.id()),
            name: info.name_as_str().map(str::to_owned),
        })
    });
    programs.into_iter().flatten().collect()
}

/// Puts names to ids.
fn name(programs: &mut [DeviceProgram]) {
    if programs.iter().all(|program| program.name.is_some() || program.id.is_none()) {
        return;
    }
    for info in loaded_programs().flatten() {
        let nameless = programs.iter_mut().filter(|program| program.name.is_none());
        for program in nameless.filter(|program| program.id == Some(info.id())) {
            program.name = info.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        }
    }
}
