//! A TAP device: an interface whose other end is a file. It goes when the file is closed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Updater, ioctl};

/// `TUNSETIFF`, of `linux/if_tun.h`.
const TUNSETIFF: Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
/// Frames, and nothing in front of them: `IFF_TAP | IFF_NO_PI`.
const FRAMES: u16 = 0x0002 | 0x1000;
/// Longest name of a device, with the byte that ends it.
const IFNAMSIZ: usize = 16;
/// More than any frame: no device here has a larger MTU.
const ROOM: usize = 65_536;

/// `struct ifreq`, as far as `TUNSETIFF` reads and writes it.
#[repr(C)]
struct Request {
    name: [u8; IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == 40, "the kernel copies as much back");

/// A TAP device in the namespace of the thread that opened it.
pub(super) struct Tap(File);

impl Tap {
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun")?;
        let mut request = Request { name: [0; IFNAMSIZ], flags: FRAMES, rest: [0; 22] };
        let room = request.name.get_mut(..name.len()).filter(|_| name.len() < IFNAMSIZ);
        room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        // SAFETY: `TUNSETIFF` takes a pointer to a `struct ifreq`, which `Request` is, writes the name and the flags in
        // it, and does not keep the pointer.
        unsafe { ioctl(&file, Updater::<TUNSETIFF, Request>::new(&mut request)) }?;
        Ok(Self(file))
    }

    /// The next frame that the kernel gave to the device, if there is one.
    pub(super) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; ROOM];
        match (&self.0).read(&mut frame) {
            Ok(len) => {
                frame.truncate(len);
                Ok(Some(frame))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the kernel a frame that comes from the device.
    pub(super) fn write(&self, frame: &[u8]) -> io::Result<()> {
        match (&self.0).write_all(frame) {
            // The device is not up yet, or not any more: there is no wire.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(()),
            written => written,
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
