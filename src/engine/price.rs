//! Prices of an object store: what a provider asks for requests, for what they carry, and for what lies there.

use std::path::Path;

use super::charges::Charge;
use crate::base::text::BadText;
use crate::disk::read_outside;

/// Bytes of a gigabyte, as providers count.
const GIGABYTE: f64 = (1u64 << 30) as f64;
/// Hours of a month: a twelfth of a year.
pub const MONTH_HOURS: f64 = 730.0;

/// Prices in dollars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Price {
    /// Its name in reports: what it was asked for by.
    pub name: String,
    /// A thousand objects or parts of objects written.
    put: f64,
    /// A thousand listings.
    list: f64,
    /// A thousand objects read, or asked about.
    get: f64,
    /// A thousand objects removed.
    delete: f64,
    /// A gigabyte that lies there for a month.
    storage: f64,
    /// A gigabyte sent there.
    upload: f64,
    /// A gigabyte fetched from there.
    download: f64,
}

/// The names in a file of prices.
const NAMES: [&str; 7] = ["put", "list", "get", "delete", "storage", "upload", "download"];

impl Price {
    /// S3 Standard in us-east-1, to a machine in the same region, without free requests and lower steps.
    pub fn aws() -> Price {
        Price {
            name: "aws".to_string(),
            put: 0.005,
            list: 0.005,
            get: 0.0004,
            storage: 0.023,
            ..Price::default()
        }
    }

    /// The prices in the file at `path`. The error names the file, the line, the cause, and what is to be there.
    pub fn read(path: &Path) -> Result<Price, BadText> {
        let shown = path.display();
        let bytes = read_outside(path).map_err(|error| {
            format!("{shown}: {error}; write the prices there, or mount with price=aws or price=none")
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes()[..error.utf8_error().valid_up_to()].split(|byte| *byte == b'\n').count();
            format!("{shown}: line {line}: it is no text (UTF-8)")
        })?;
        let prices = Price::parse(&text).map_err(|problem| format!("{shown}: {problem}"))?;
        Ok(Price { name: shown.to_string(), ..prices })
    }

    /// Lines `NAME = DOLLARS`, with `#` before what is said of them.
    fn parse(text: &str) -> Result<Price, String> {
        let mut price = Price::default();
        let mut seen = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let said = line.split('#').next().unwrap_or_default().trim();
            if said.is_empty() {
                continue;
            }
            let problem = |cause: String| format!("line {number}: {cause}");
            let (name, value) = said.split_once('=').ok_or_else(|| {
                problem(format!("'{said}' is not NAME = DOLLARS, with one of {}", NAMES.join(", ")))
            })?;
            let (name, value) = (name.trim(), value.trim());
            let place = price.place(name).ok_or_else(|| {
                problem(format!("there is no price '{name}': there are {}", NAMES.join(", ")))
            })?;
            let dollars = value.parse().ok().filter(|dollars: &f64| dollars.is_finite() && *dollars >= 0.0);
            *place = dollars.ok_or_else(|| {
                problem(format!("{name} = '{value}' is no price: write dollars as a number, as in 0.005"))
            })?;
            if seen.contains(&name) {
                return Err(problem(format!("{name} has a price above: leave one of the two")));
            }
            seen.push(name);
        }
        match NAMES.into_iter().find(|name| !seen.contains(name)) {
            None => Ok(price),
            Some(name) => Err(format!("there is no line for {name}: write '{name} = 0' where it is free")),
        }
    }

    fn place(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "put" => &mut self.put,
            "list" => &mut self.list,
            "get" => &mut self.get,
            "delete" => &mut self.delete,
            "storage" => &mut self.storage,
            "upload" => &mut self.upload,
            "download" => &mut self.download,
            _ => return None,
        })
    }

    /// Dollars for requests and what they carried.
    pub fn of(&self, charge: &Charge) -> f64 {
        let requests = charge.puts as f64 * self.put
            + charge.lists as f64 * self.list
            + (charge.gets + charge.heads) as f64 * self.get
            + charge.deletes as f64 * self.delete;
        let bytes = charge.write_bytes as f64 * self.upload + charge.read_bytes as f64 * self.download;
        requests / 1000.0 + bytes / GIGABYTE
    }

    /// Dollars a month for so many bytes that lie there.
    pub fn of_stored(&self, bytes: u64) -> f64 {
        bytes as f64 / GIGABYTE * self.storage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_bytes_and_what_lies_there_cost_what_the_table_says() {
        let charge = Charge {
            puts: 2000,
            gets: 1000,
            heads: 500,
            lists: 1000,
            deletes: 9000,
            write_bytes: 1 << 30,
            read_bytes: 1 << 29,
        };
        let near = |dollars: f64, wanted: f64| {
            assert!((dollars - wanted).abs() < 1e-9, "{dollars} and not {wanted}")
        };
        near(Price::aws().of(&charge), 0.010 + 0.005 + 0.0006);
        near(Price::aws().of_stored(100 << 30), 2.3);
        let own = "put=1\nlist = 2 # dear\n\nget=3\ndelete=4\n# bytes\nstorage=5\nupload=6\ndownload=7\n";
        let own = Price::parse(own).unwrap();
        near(own.of(&charge), 2.0 + 2.0 + 4.5 + 36.0 + 6.0 + 3.5);
        near(own.of_stored(1 << 29), 2.5);
    }

    #[test]
    fn a_file_of_prices_that_makes_no_sense_says_where_and_what_does() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("prices");
        let refused = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            let text = Price::read(&path).unwrap_err().to_string();
            text.strip_prefix(&format!("{}: ", path.display()))
                .unwrap_or_else(|| panic!("{text}"))
                .to_string()
        };
        assert!(
            refused(b"put = 1\nhead = 2\n")
                .starts_with("line 2: there is no price 'head': there are put, list")
        );
        assert!(refused(b"\nput 1\n").starts_with("line 2: 'put 1' is not NAME = DOLLARS"));
        for wrong in ["much", "-1", "NaN", "inf", "0,005"] {
            let text = refused(format!("put = {wrong}\n").as_bytes());
            assert!(text.starts_with(&format!("line 1: put = '{wrong}' is no price")), "{text}");
        }
        assert!(refused(b"put = 1\nput = 2\n").starts_with("line 2: put has a price above"));
        assert!(refused(b"put = 1\nlist = 2\n").starts_with("there is no line for get: write 'get = 0'"));
        assert!(refused(b"put = 1\nlist = \xff\n").starts_with("line 2: it is no text"));
        std::fs::remove_file(&path).unwrap();
        let missing = Price::read(&path).unwrap_err().to_string();
        assert!(missing.contains("No such file") && missing.contains("price=none"), "{missing}");
        let all: String = NAMES.map(|name| format!("{name} = 0.5\n")).concat();
        std::fs::write(&path, all).unwrap();
        let price = Price::read(&path).unwrap();
        assert_eq!((price.name, price.put, price.download), (path.display().to_string(), 0.5, 0.5));
    }
}
