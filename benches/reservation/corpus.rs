//! Requests of many kinds, made anew by each run and the same in each: words of our own lists, letters of Unicode's blocks, and this
//! repository's own documentation and source.

use serde_json::{Value, json};

/// Kinds of text, and how each is made.
pub const KINDS: [(&str, Make); 24] = [
    ("English prose", |d| d.slice_of(&DOCS)),
    ("English chat", |d| d.sentences(ENGLISH, " ")),
    ("Markdown", |d| {
        format!("## {}\n\n- {}\n- `{}`\n\n{}", d.words(ENGLISH, 3), d.sentences(ENGLISH, " "), d.identifier(), d.slice_of(&DOCS))
    }),
    ("Rust", |d| d.slice_of(&SOURCES)),
    ("YAML, Makefile", |d| d.slice_of(&CONFIGS)),
    ("JSON", |d| d.json(4).to_string()),
    ("JSON, indented", |d| serde_json::to_string_pretty(&d.json(4)).expect("it is JSON")),
    ("digits, CSV", Draw::table),
    ("log lines", Draw::log),
    ("base64", |d| d.letters("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")),
    ("hex, UUID", |d| d.many(|d| format!("{:08x}-{:04x}-{:016x} ", d.next() >> 32, d.next() >> 48, d.next()))),
    ("white space", |d| d.many(|d| format!("{}{}\n", " ".repeat(d.below(24)), d.pick(ENGLISH)))),
    ("German", |d| d.sentences(GERMAN, " ")),
    ("French", |d| d.sentences(FRENCH, " ")),
    ("Russian", |d| d.sentences(RUSSIAN, " ")),
    ("Greek", |d| d.sentences(GREEK, " ")),
    ("Arabic", |d| d.sentences(ARABIC, " ")),
    ("Hindi", |d| d.sentences(HINDI, " ")),
    ("Thai", |d| d.sentences(THAI, "")),
    ("Chinese", |d| d.sentences(CHINESE, "")),
    ("Japanese", |d| d.sentences(JAPANESE, "")),
    ("Korean", |d| d.sentences(KOREAN, " ")),
    ("emoji", |d| d.many(|d| format!("{}{} ", d.pick(EMOJI), if d.below(3) == 0 { d.pick(ENGLISH) } else { "" }))),
    ("languages mixed", |d| {
        let parts = [ENGLISH, GERMAN, RUSSIAN, CHINESE, JAPANESE, ARABIC, EMOJI];
        d.many(|d| {
            let list = parts[d.below(parts.len())];
            format!("{} ", d.words(list, 5))
        })
    }),
];

type Make = fn(&mut Draw) -> String;

/// What a call asks for: its body, and the texts that a tokenizer sees of it.
pub struct Call {
    pub kind: &'static str,
    pub body: Value,
    pub read: Vec<String>,
    /// Tokens that the format adds.
    pub framing: u64,
}

/// A chat of a few turns, some with tools. What the format adds is as OpenAI describes it (openai-cookbook,
/// `How_to_count_tokens_with_tiktoken`): three tokens a message and its role, three for the answer; declarations of tools are read as
/// types with comments, and twelve tokens more.
pub fn call(draw: &mut Draw, kind: usize) -> Call {
    let (kind, make) = KINDS[kind];
    draw.length = [60, 300, 1_200, 4_000][draw.below(4)] + draw.below(200);
    let turns = [1, 1, 2, 4][draw.below(4)];
    let texts: Vec<String> = (0..turns).map(|_| make(draw)).collect();
    let roles = ["user", "assistant"].into_iter().cycle();
    let mut messages: Vec<Value> = texts.iter().zip(roles).map(|(text, role)| json!({"role": role, "content": text})).collect();
    let mut read = texts;
    let mut framing = 3 + 4 * turns as u64;
    let mut body = json!({"model": "gpt-5", "max_completion_tokens": 500, "temperature": 1});
    if draw.below(4) == 0 {
        let name = draw.identifier();
        let arguments = draw.json(2).to_string();
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
        ]}));
        read.extend([name.clone(), arguments]);
        framing += 4 + 8;
        let (about, field) = (draw.sentences_of(ENGLISH, " ", 120), draw.identifier());
        body["tools"] = json!([{"type": "function", "function": {"name": name, "description": about, "parameters":
            {"type": "object", "properties": {&field: {"type": "string", "description": about}}, "required": [&field]}}}]);
        read.push(format!("// {about}\ntype {name} = (_: {{\n// {about}\n{field}: string,\n}}) => any;\n"));
        framing += 12;
    }
    body["messages"] = json!(messages);
    Call { kind, body, read, framing }
}

/// Xorshift (G. Marsaglia, *Xorshift RNGs*, Journal of Statistical Software 8, 2003): the same numbers in every run.
pub struct Draw {
    state: u64,
    /// Bytes that a text is to have, about.
    length: usize,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw { state: seed | 1, length: 0 }
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    /// A word of a list; the longer ones are likelier.
    fn pick<'a>(&mut self, list: &'a str) -> &'a str {
        let at = self.below(list.len());
        let bytes = list.as_bytes();
        let start = bytes[..at].iter().rposition(|b| *b == b' ').map_or(0, |blank| blank + 1);
        let end = bytes[at..].iter().position(|b| *b == b' ').map_or(list.len(), |length| at + length);
        if start < end { &list[start..end] } else { "and" }
    }

    fn words(&mut self, list: &str, count: usize) -> String {
        (0..count).map(|_| self.pick(list)).collect::<Vec<_>>().join(" ")
    }

    fn many(&mut self, each: impl Fn(&mut Draw) -> String) -> String {
        let mut text = String::new();
        while text.len() < self.length {
            text += &each(self);
        }
        text
    }

    fn sentences(&mut self, list: &str, between: &str) -> String {
        self.sentences_of(list, between, self.length)
    }

    fn sentences_of(&mut self, list: &str, between: &str, length: usize) -> String {
        let wide = between.is_empty();
        let mut text = String::new();
        while text.len() < length {
            let words: Vec<&str> = (0..4 + self.below(14)).map(|_| self.pick(list)).collect();
            text += &words.join(between);
            text += match (self.below(8), wide) {
                (0, _) => "?\n",
                (1, false) => ", ",
                (_, false) => ". ",
                (_, true) => "。",
            };
        }
        text
    }

    fn letters(&mut self, alphabet: &str) -> String {
        let alphabet = alphabet.as_bytes();
        (0..self.length).map(|_| char::from(alphabet[self.below(alphabet.len())])).collect()
    }

    fn slice_of(&mut self, files: &[&str]) -> String {
        let file = files[self.below(files.len())];
        let start = (0..).map(|_| self.below(file.len())).find(|at| file.is_char_boundary(*at)).unwrap_or(0);
        file[start..].chars().take(self.length).collect()
    }

    fn identifier(&mut self) -> String {
        let (first, second) = (self.pick(ENGLISH).to_owned(), self.pick(ENGLISH));
        if self.below(2) == 0 { format!("{first}_{second}") } else { format!("{first}{}{}", second[..1].to_uppercase(), &second[1..]) }
    }

    fn json(&mut self, depth: usize) -> Value {
        let members = 2 + self.below(4);
        let items = self.length / 400;
        let mut object = serde_json::Map::new();
        for _ in 0..members {
            let name = self.identifier();
            let value = match self.below(7) {
                0 => json!(self.below(1_000_000)),
                1 => json!(self.below(1_000) as f64 / 8.0),
                2 => json!(self.below(2) == 0),
                3 if depth > 0 => (0..items.min(12)).map(|_| self.json(depth - 1)).collect(),
                4 if depth > 0 => self.json(depth - 1),
                5 => json!(format!("{:016x}", self.next())),
                _ => json!(self.words(ENGLISH, 4)),
            };
            object.insert(name, value);
        }
        object.into()
    }

    fn table(&mut self) -> String {
        self.many(|d| {
            let (year, price) = (1990 + d.below(40), d.below(10_000_000));
            format!(
                "{year}-{:02}-{:02},{price},{}.{:02},{}\n",
                1 + d.below(12),
                1 + d.below(28),
                d.below(100_000),
                d.below(100),
                d.below(9)
            )
        })
    }

    fn log(&mut self) -> String {
        self.many(|d| {
            let (level, ms) = (d.pick("INFO WARN ERROR DEBUG"), d.below(5_000));
            let (clock, about) = (d.below(60), d.words(ENGLISH, 6));
            format!(
                "2026-11-26T03:14:{clock:02}.{:03}Z {level} [{:x}] {}: {about} ({ms} ms)\n",
                d.below(1_000),
                d.next() >> 40,
                d.identifier()
            )
        })
    }
}

const DOCS: [&str; 4] = [
    include_str!("../../docs/concepts.md"),
    include_str!("../../docs/architecture.md"),
    include_str!("../../docs/how-to/operate.md"),
    include_str!("../../CONTRIBUTING.md"),
];
const SOURCES: [&str; 4] = [
    include_str!("../../src/core/lease.rs"),
    include_str!("../../src/core/money.rs"),
    include_str!("../../src/llm/stream.rs"),
    include_str!("../../src/sidecar/meter.rs"),
];
const CONFIGS: [&str; 3] =
    [include_str!("../../charts/spendkeeper/values.yaml"), include_str!("../../Makefile"), include_str!("../../examples/laptop.yaml")];

const ENGLISH: &str = "the a of to and in is that it for was on are with as be this have from or by not but what all were when we there \
can which their if will each about how up out them then many some would other into more her two like him time has look write number \
could people my first water been call who its now find long down day did get come made may part customer refund order invoice please \
explain summarise translate meeting deadline analysis quarterly revenue unfortunately nevertheless infrastructure Kubernetes Berlin";
const GERMAN: &str = "der die das und ist nicht mit für auf ein eine wir haben wird können über schon müssen Vertrag Rechnung Kündigung \
Geschäftsführer Versicherungsgesellschaft Straße größer möglich Verfügbarkeit bitte übersetzen Zusammenfassung Entwicklung zwischen \
während natürlich Haushaltsplan Datenschutzgrundverordnung Ergebnis schließlich Überweisung Mitarbeiterin täglich";
const FRENCH: &str = "le la les un une des et est pas avec pour sur nous avons être déjà très contrat facture résiliation société français \
développement réunion à côté où même après élève garçon château hôpital forêt événement voilà peut-être aujourd'hui quelqu'un d'accord \
bientôt travail équipe qualité données sécurité";
const RUSSIAN: &str = "и в не на что с по это как для мы был от так все его но договор счёт отмена общество разработка совещание бюджет \
компания пожалуйста переведите результат качество безопасность данные сегодня завтра сотрудник ответственность достопримечательность \
который время человек жизнь день рука работа слово место вопрос";
const GREEK: &str = "και το να η του την με για που στο από είναι δεν τα θα ένα σύμβαση τιμολόγιο ακύρωση εταιρεία ανάπτυξη συνάντηση \
προϋπολογισμός παρακαλώ μετάφραση αποτέλεσμα ποιότητα ασφάλεια δεδομένα σήμερα αύριο υπάλληλος ευθύνη άνθρωπος χρόνος ημέρα";
const ARABIC: &str = "في من على إلى أن هذا التي كان مع عن ما هو بعد كل العقد الفاتورة إلغاء الشركة تطوير اجتماع ميزانية من فضلك ترجمة النتيجة \
الجودة الأمن البيانات اليوم غدا الموظف المسؤولية الإنسان الوقت السؤال الجواب مدينة كتاب";
const HINDI: &str = "और का के में है की से को पर यह नहीं एक हम थे कर अनुबंध चालान रद्द कंपनी विकास बैठक बजट कृपया अनुवाद परिणाम गुणवत्ता सुरक्षा \
आंकड़े आज कल कर्मचारी जिम्मेदारी मनुष्य समय दिन काम प्रश्न उत्तर शहर पुस्तक";
const THAI: &str = "และ ที่ ใน การ เป็น ของ ไม่ มี ให้ ได้ ว่า จะ สัญญา ใบแจ้งหนี้ ยกเลิก บริษัท พัฒนา ประชุม งบประมาณ กรุณา แปล ผลลัพธ์ คุณภาพ \
ความปลอดภัย ข้อมูล วันนี้ พรุ่งนี้ พนักงาน ความรับผิดชอบ มนุษย์ เวลา คำถาม คำตอบ เมือง หนังสือ";
const CHINESE: &str = "的 是 我们 不 在 有 这个 了 和 合同 发票 取消 公司 开发 会议 预算 请 翻译 结果 质量 安全 数据 今天 明天 员工 责任 人类 时间 问题 回答 城市 \
书籍 人工智能 基础设施 季度收入 分析报告 饕餮 龘";
const JAPANESE: &str = "の は を に が です ます これ それ ない から まで 契約 請求書 キャンセル 会社 開発 会議 予算 ください 翻訳 結果 品質 安全 データ 今日 明日 \
従業員 責任 人間 時間 質問 回答 都市 本 ありがとうございます クラウドコンピューティング 躊躇";
const KOREAN: &str = "이 그 저 은 는 을 를 에서 하다 있다 없다 우리 계약 청구서 취소 회사 개발 회의 예산 주세요 번역 결과 품질 보안 데이터 오늘 내일 직원 책임 \
인간 시간 질문 답변 도시 책 감사합니다 인프라";
const EMOJI: &str = "😀 😂 🥰 👍 🎉 🚀 🔥 💯 🙏 😭 🤔 👀 ✨ ❤️ 🏳️‍🌈 👩‍💻 🇨🇭 🇯🇵 1️⃣ ✅ ⚠️ 🫠 🧑🏽‍🚀 ☕";
