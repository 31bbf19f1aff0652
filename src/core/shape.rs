//! What a request's text is made of, without knowing its tokenizer: a rough count of its pieces, and the script of most of them.
//!
//! Tokenizers differ in what a piece costs, and hardly in what a piece is: a word, three digits, a few signs, a line's end. So the ratio of
//! a model's tokens to these pieces varies little among texts of one class, far less than the ratio to bytes; what the ratio is, is learnt
//! from use (see [`calibration`](super::calibration)). The weights below need not be right, since the learnt factor makes up for them;
//! they only have to make texts of one class alike.

use std::borrow::Borrow;

/// What most of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Words of ASCII letters.
    Prose,
    /// Signs, digits, indentation: source code, JSON, tables.
    Code,
    /// Letters and digits without order: base64, hashes, identifiers.
    Dense,
    /// Latin letters with accents.
    Latin,
    /// Greek.
    Greek,
    Cyrillic,
    /// Hebrew, Arabic, Armenian and their neighbours.
    Arabic,
    /// Scripts of India and South-East Asia.
    Indic,
    /// Chinese, Japanese, Korean.
    Han,
    /// Emoji, signs, rare scripts.
    Signs,
}

impl Class {
    pub const ALL: [Class; 10] = [
        Class::Prose,
        Class::Code,
        Class::Dense,
        Class::Latin,
        Class::Greek,
        Class::Cyrillic,
        Class::Arabic,
        Class::Indic,
        Class::Han,
        Class::Signs,
    ];
}

/// How much text there is, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub class: Class,
    /// Pieces, in quarters; one at least.
    pub quarters: u64,
}

/// Quarters that a message adds to its text.
const TURN: u64 = 16;

impl Shape {
    /// The shape of a request with these texts in so many messages. Linear in the length of the texts.
    pub fn of<T: Borrow<str>>(texts: impl IntoIterator<Item = T>, turns: usize) -> Shape {
        let mut count = Count::default();
        for text in texts {
            count.add(text.borrow());
        }
        let class = count.class();
        let framed = (turns as u64 + 1).saturating_mul(TURN);
        Shape { class, quarters: count.quarters().saturating_add(framed) }
    }

    /// With so many bytes of declarations beside the texts: tools, which are names, signs and short sentences, of four bytes a token.
    pub fn with_declarations(self, bytes: u64) -> Shape {
        Shape { quarters: self.quarters.saturating_add(bytes), ..self }
    }
}

/// What a byte of UTF-8 is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Capital,
    Digit,
    Space,
    Sign,
    /// The first byte of a character of a script.
    Of(Class),
    /// A later byte of a character.
    Rest,
}

fn kind(byte: u8) -> Kind {
    match byte {
        b'a'..=b'z' => Kind::Small,
        b'A'..=b'Z' => Kind::Capital,
        b'0'..=b'9' => Kind::Digit,
        b' ' | b'\t' | b'\n' | b'\r' => Kind::Space,
        0x00..=0x7f => Kind::Sign,
        0x80..=0xbf => Kind::Rest,
        // The first byte says which block a character is from (the Unicode Standard, table 3-6 and the code charts).
        0xc0..=0xcb => Kind::Of(Class::Latin),
        0xcc..=0xcf => Kind::Of(Class::Greek),
        0xd0..=0xd3 => Kind::Of(Class::Cyrillic),
        0xd4..=0xdf => Kind::Of(Class::Arabic),
        0xe0 | 0xe1 => Kind::Of(Class::Indic),
        0xe3..=0xed | 0xef => Kind::Of(Class::Han),
        0xe2 | 0xee | 0xf0.. => Kind::Of(Class::Signs),
    }
}

/// Quarters of what was seen, by what it was.
#[derive(Default)]
struct Count {
    words: u64,
    digits: u64,
    signs: u64,
    spaces: u64,
    /// Words that end where no blank or sign is: within camel case, beside a digit.
    seams: u64,
    bytes: u64,
    accents: u64,
    scripts: [u64; Class::ALL.len()],
}

impl Count {
    fn add(&mut self, text: &str) {
        let bytes = text.as_bytes();
        self.bytes += bytes.len() as u64;
        let mut at = 0;
        let mut before = Kind::Space;
        while let Some(byte) = bytes.get(at) {
            let kind = kind(*byte);
            let run = bytes[at..].iter().take_while(|b| self::kind(**b) == kind).count();
            let length = run as u64;
            match kind {
                // A word costs more the longer it is; a capital that begins one is part of it.
                Kind::Small => {
                    self.words += if before == Kind::Capital { 0 } else { 4 } + length.saturating_sub(6);
                    self.seams += u64::from(before == Kind::Digit);
                }
                Kind::Capital => {
                    self.words += 4 + 2 * length.saturating_sub(4);
                    self.seams += u64::from(matches!(before, Kind::Small | Kind::Digit));
                }
                Kind::Digit => {
                    self.digits += 4 * length.div_ceil(3);
                    self.seams += u64::from(matches!(before, Kind::Small | Kind::Capital));
                }
                // A blank belongs to the word behind it.
                Kind::Space => self.spaces += if run == 1 && *byte == b' ' { 0 } else { 4 },
                Kind::Sign => self.signs += 2 + 2 * length,
                Kind::Rest => {}
                Kind::Of(class) => {
                    self.scripts[class as usize] += length * weight(class);
                    self.accents += u64::from(class == Class::Latin);
                }
            }
            before = kind;
            at += run;
        }
    }

    fn quarters(&self) -> u64 {
        self.words + self.digits + self.signs + self.spaces + self.scripts.iter().sum::<u64>()
    }

    fn class(&self) -> Class {
        let all = self.quarters().max(1);
        let most = Class::ALL.into_iter().filter(|class| *class != Class::Latin).max_by_key(|class| self.scripts[*class as usize]);
        let foreign = most.filter(|class| self.scripts[*class as usize] * 5 >= all);
        let ordered = self.digits + self.signs + self.spaces;
        match foreign {
            Some(class) => class,
            None if self.seams * 24 > self.bytes => Class::Dense,
            None if self.accents * 24 > self.words => Class::Latin,
            None if ordered * 3 > all => Class::Code,
            None => Class::Prose,
        }
    }
}

/// Quarters of one character.
fn weight(class: Class) -> u64 {
    match class {
        // It stands within a word, which is counted in parts on both sides of it.
        Class::Prose | Class::Code | Class::Dense | Class::Latin => 1,
        Class::Greek | Class::Cyrillic | Class::Arabic | Class::Indic => 2,
        Class::Han => 4,
        Class::Signs => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        Shape::of([text], 0)
    }

    #[test]
    fn a_text_is_of_the_script_of_most_of_it() {
        for (text, class) in [
            ("The budget of this team is used up by noon.", Class::Prose),
            ("fn main() { let x = [1, 2]; }\n    x.len()\n", Class::Code),
            ("{\"id\": 17, \"items\": [{\"n\": 1}, {\"n\": 2}]}", Class::Code),
            ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Class::Dense),
            ("Für große Verträge gelten höhere Gebühren.", Class::Latin),
            ("Ο προϋπολογισμός εξαντλήθηκε.", Class::Greek),
            ("Бюджет команды исчерпан.", Class::Cyrillic),
            ("انتهت ميزانية الفريق", Class::Arabic),
            ("टीम का बजट समाप्त हो गया", Class::Indic),
            ("团队的预算已经用完了。", Class::Han),
            ("チームの予算を使い切りました。", Class::Han),
            ("팀의 예산이 모두 소진되었습니다.", Class::Han),
            ("😀😀😀", Class::Signs),
            ("", Class::Prose),
        ] {
            assert_eq!(shape(text).class, class, "{text}");
        }
    }

    #[test]
    fn pieces_are_words_signs_digits_and_lines() {
        for (text, quarters) in [("", 0), ("the cat", 8), ("Cat", 4), ("the, cat", 12), ("12345", 8), ("a\n\nb", 12), ("中文", 8)] {
            assert_eq!(shape(text).quarters, TURN + quarters, "{text:?}");
        }
        assert_eq!(Shape::of(["a", "a"], 3).with_declarations(10).quarters, 4 * TURN + 8 + 10);
    }
}
