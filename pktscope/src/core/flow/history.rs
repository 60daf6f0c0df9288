//! A TCP connection's history in Zeek's letters, in eight bytes, and never without its ending.
//!
//! Upper case is the initiator, lower case the responder. Letters that tell a state (`S h A D F R …`) come once a side;
//! letters that count (`T` retransmission, `G` gap, `W` zero window) come at the 1st, 10th, 100th … time. Eight bytes
//! hold twelve letters; what comes after spills to [`Spill`], which has room for every letter that can come.

use std::sync::Arc;

/// A letter; the discriminant is its code, 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Letter {
    /// SYN.
    Syn = 1,
    /// SYN with ACK: the handshake's second step.
    SynAck,
    /// A pure ACK.
    Ack,
    /// A segment with payload.
    Data,
    /// FIN.
    Fin,
    /// RST inside the window.
    Rst,
    /// Bytes that were acknowledged but not seen.
    Gap,
    /// A segment whose bytes were all seen before.
    Retransmission,
    /// A zero window.
    ZeroWindow,
    /// SYN with FIN or RST.
    Multiple,
    /// FIN with RST.
    Inconsistent,
    /// The initiator was taken to be the other side.
    Flip,
}

impl Letter {
    fn upper(code: u8) -> Option<u8> {
        // In the order of the discriminants; Zeek: base/protocols/conn/main.zeek, `history`.
        code.checked_sub(1).and_then(|index| b"SHADFRGTWQI^".get(usize::from(index)).copied())
    }
}

const LETTER_BITS: u32 = 5;
const SIDE_BIT: u8 = 0x10;
const INLINE_LETTERS: usize = 12;

/// The first letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct History(u64);

/// The letters after those: the ten that count can come eight times each in 10^8 events, so the bound is not met; a
/// letter that counts gives way to the ones that tell a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spill(Vec<u8>);

/// Letters that counts may take of a [`Spill`].
const SPILL_COUNTING: usize = 48;

impl History {
    fn length(self) -> usize {
        ((u64::BITS - self.0.leading_zeros()).div_ceil(LETTER_BITS)) as usize
    }

    /// Adds a letter; `false` where it has to go to the [`Spill`].
    pub(super) fn push(&mut self, letter: Letter, side: usize) -> bool {
        let length = self.length();
        if length == INLINE_LETTERS {
            return false;
        }
        self.0 |= u64::from(code(letter, side)) << (LETTER_BITS * length as u32);
        true
    }

    /// The letters, with those of the spill.
    pub(super) fn text(self, spill: Option<&Spill>) -> Arc<str> {
        let inline = (0..self.length()).map(|at| (self.0 >> (LETTER_BITS * at as u32)) as u8 & 0x1f);
        let Some(spill) = spill else {
            let mut letters = [0; INLINE_LETTERS];
            let shown = letters.iter_mut().zip(inline.filter_map(shown)).map(|(letter, shown)| *letter = shown).count();
            return std::str::from_utf8(&letters[..shown]).unwrap_or_default().into();
        };
        inline.chain(spill.0.iter().copied()).filter_map(shown).map(char::from).collect::<String>().into()
    }
}

impl Spill {
    /// Adds a letter after the inline ones.
    pub(super) fn push(&mut self, letter: Letter, side: usize) {
        let counts = matches!(letter, Letter::Gap | Letter::Retransmission | Letter::ZeroWindow);
        if !counts || self.0.len() < SPILL_COUNTING {
            self.0.push(code(letter, side));
        }
    }
}

fn code(letter: Letter, side: usize) -> u8 {
    letter as u8 | if side == 0 { 0 } else { SIDE_BIT }
}

fn shown(code: u8) -> Option<u8> {
    let upper = Letter::upper(code & !SIDE_BIT)?;
    Some(if code & SIDE_BIT == 0 { upper } else { upper.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_out_in_order_and_case() {
        let mut history = History::default();
        for (letter, side) in [
            (Letter::Syn, 0),
            (Letter::SynAck, 1),
            (Letter::Ack, 0),
            (Letter::Data, 0),
            (Letter::Ack, 1),
            (Letter::Data, 1),
            (Letter::Fin, 0),
            (Letter::Fin, 1),
        ] {
            assert!(history.push(letter, side));
        }
        assert_eq!(&*history.text(None), "ShADadFf");
    }

    #[test]
    fn the_ending_survives_any_number_of_counted_letters() {
        let (mut history, mut spill) = (History::default(), Spill::default());
        for _ in 0..1000 {
            if !history.push(Letter::Retransmission, 1) {
                spill.push(Letter::Retransmission, 1);
            }
        }
        spill.push(Letter::Fin, 0);
        spill.push(Letter::Rst, 1);
        let text = history.text(Some(&spill));
        assert!(text.ends_with("Fr"), "{text}");
        assert_eq!(text.len(), INLINE_LETTERS + SPILL_COUNTING + 2);
    }
}
