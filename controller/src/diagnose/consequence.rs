//! Of what a packet's end may be the consequence: of the address that it was for, of whatever in its headers somebody
//! changed, or of neither, since rules, devices and queues have reasons of their own.

use waymark_proto::{Cause, FaultPoint, Hook};

/// What of a packet may have led to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owed {
    /// Nothing: any packet might have died of it.
    Nothing,
    /// Who it is for, where it comes from, or a checksum that does not fit any more.
    Headers,
    /// Who it is for.
    Destination,
}

/// Whether a packet may have died in this way because its destination is nobody's.
pub(super) fn may_come_of_address(end: &FaultPoint) -> bool {
    // What routes refuse the kernel does not always name.
    owed(end.cause) == Owed::Destination || (end.cause, end.hook) == (Cause::KernelDrop, Hook::Route)
}

/// Whether a packet may have died for this cause because it was changed.
pub(crate) fn may_come_of_change(cause: Cause) -> bool {
    owed(cause) >= Owed::Headers
}

fn owed(cause: Cause) -> Owed {
    match cause {
        Cause::NoRoute
        | Cause::BlackholeRoute
        | Cause::UnreachableRoute
        | Cause::ProhibitRoute
        | Cause::WrongRoute
        | Cause::ForwardingDisabled
        | Cause::TtlExpired
        | Cause::NeighbourUnresolved
        | Cause::BridgePort
        | Cause::TunnelNoRemote
        | Cause::AddressMissing
        | Cause::RoutingLoop
        | Cause::SilentLoss
        | Cause::Unknown => Owed::Destination,
        Cause::SourceValidation
        | Cause::MartianAddress
        | Cause::WrongReceiver
        | Cause::AnswerMismatch
        | Cause::NoListener
        | Cause::OtherHost
        | Cause::Malformed
        | Cause::KernelDrop => Owed::Headers,
        Cause::FilterDrop
        | Cause::FilterReject
        | Cause::ServiceWithoutEndpoints
        | Cause::ServiceWithoutLocalEndpoints
        | Cause::MtuExceeded
        | Cause::WrongNeighbour
        | Cause::DeviceDown
        | Cause::NoCarrier
        | Cause::QueueDrop
        | Cause::TunnelUnknownVni
        | Cause::TunnelDrop
        | Cause::NobodysAddress
        | Cause::Rewritten
        | Cause::NoFreePort
        | Cause::SocketQueueFull
        | Cause::SocketFilter
        | Cause::SocketOption
        | Cause::EchoIgnored
        | Cause::BpfDrop
        | Cause::SendFailed => Owed::Nothing,
    }
}
