//! The tracer's object with a filter written into it.

use object::{File, Object, ObjectSection, ObjectSymbol};
use waymark_proto::FilterInstruction;
use waymark_tracer_ebpf::{FILTER, FLOOR};

use super::translate::{FilterError, translate};

/// Where in the object the filter has its room: the bytes of a function.
fn room(object: &[u8]) -> Option<std::ops::Range<usize>> {
    let file = File::parse(object).ok()?;
    let function = file.symbol_by_name(FILTER)?;
    let section = file.section_by_index(function.section_index()?).ok()?;
    let (start, _) = section.file_range()?;
    let start = usize::try_from(start.checked_add(function.address())?).ok()?;
    let end = start.checked_add(usize::try_from(function.size()).ok()?)?;
    (end <= object.len() && start < end).then_some(start..end)
}

/// The object of both tiers, whose programs look for what the filter picks.
pub(crate) fn with_filter(filter: &[FilterInstruction]) -> Result<Vec<u8>, FilterError> {
    let mut object = FLOOR.to_vec();
    let room = room(&object).expect("the object is built together with this program");
    let instructions = translate(filter, room.len() / 8)?;
    object[room].copy_from_slice(instructions.as_flattened());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use waymark_tracer_ebpf::FILTER_ROOM;

    use super::*;

    #[test]
    fn the_object_has_room_for_a_filter() {
        let room = room(FLOOR).unwrap();
        assert!(room.len() / 8 >= FILTER_ROOM, "{room:?}");
    }

    #[test]
    fn nothing_but_the_filter_changes() {
        let all = [FilterInstruction { code: 0x06, jt: 0, jf: 0, k: 1 }];
        let (filtered, room) = (with_filter(&all).unwrap(), room(FLOOR).unwrap());
        assert_eq!(filtered.len(), FLOOR.len());
        assert_eq!(filtered[..room.start], FLOOR[..room.start]);
        assert_eq!(filtered[room.end..], FLOOR[room.end..]);
        assert_ne!(filtered[room.clone()], FLOOR[room]);
    }
}
