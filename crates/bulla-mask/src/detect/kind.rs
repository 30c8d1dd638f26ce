//! What detectors know.

macro_rules! kinds {
    ($($name:ident = $word:literal: $about:literal;)*) => {
        /// A kind of value that is found by what it looks like.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $about] $name,)* }

        /// Every kind there is.
        pub const ALL: &[Kind] = &[$(Kind::$name,)*];

        impl Kind {
            /// The word for configuration, records and metrics; never changes.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
            /// What it is, for people.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

kinds! {
    Card = "card": "payment card number: issuer range, length, Luhn";
    Iban = "iban": "IBAN: country, length, mod 97";
    UsSsn = "us_ssn": "US social security number or ITIN";
    UkNino = "uk_nino": "UK national insurance number";
    FrNir = "fr_nir": "French NIR: key mod 97";
    EsDni = "es_dni": "Spanish DNI or NIE: letter mod 23";
    ItCf = "it_cf": "Italian codice fiscale: check letter";
    DeTaxId = "de_tax_id": "German tax id: ISO 7064 mod 11,10";
    NlBsn = "nl_bsn": "Dutch BSN: elfproef, with a word nearby";
    BeNrn = "be_nrn": "Belgian national number: mod 97";
    PlPesel = "pl_pesel": "Polish PESEL: weights";
    ChAhv = "ch_ahv": "Swiss AHV number: EAN-13";
    SePn = "se_pn": "Swedish personal number: Luhn";
    FiHetu = "fi_hetu": "Finnish personal identity code: mod 31";
    CaSin = "ca_sin": "Canadian SIN: Luhn, with a word nearby";
    BrCpf = "br_cpf": "Brazilian CPF: two check digits";
    InAadhaar = "in_aadhaar": "Indian Aadhaar: Verhoeff";
    CnId = "cn_id": "Chinese resident id: mod 11-2";
    AuTfn = "au_tfn": "Australian TFN: weights, with a word nearby";
    Email = "email": "e-mail address";
    Phone = "phone": "telephone number";
    Ip = "ip": "IPv4 or IPv6 address";
    Jwt = "jwt": "JSON web token";
    PrivateKey = "private_key": "private key in PEM";
    CloudKey = "cloud_key": "key of a cloud or a service";
    VcsToken = "vcs_token": "token of a source forge or a package registry";
    ConnectionString = "connection_string": "URL or connection string with a password";
    Password = "password": "a secret behind its name";
}

impl Kind {
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

/// Kinds that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set(u32);

const _: () = assert!(ALL.len() <= 32);

impl Set {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u32::MAX);

    pub fn of(kinds: &[Kind]) -> Self {
        kinds.iter().fold(Self::NONE, |set, kind| set.with(*kind))
    }
    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << (kind as u32)) != 0
    }
    pub fn any(self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.has(*kind))
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << (kind as u32))
    }
    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << (kind as u32)))
    }
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
