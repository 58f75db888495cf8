//! Rows of comma-separated values.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use csv_async::{AsyncReader, AsyncReaderBuilder, ByteRecord};
use tokio::io::{AsyncRead, ReadBuf};

use crate::operations::OpError;
use crate::store::NewContact;

use super::{Broken, MAX_ROW, Sink, columns_problem, contact, is_variable};

/// Bytes that may be read for one row: the row, and what the reader reads ahead.
const ALLOWANCE: usize = MAX_ROW + 64 * 1024;

/// A reader that fails when one row takes too many bytes: an opened quote that is never closed would otherwise take all of
/// the upload into memory.
struct Bounded<R> {
    inner: R,
    left: Arc<AtomicUsize>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(std::io::Error::other(TOO_LONG)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let count = buf.filled().len().saturating_sub(before);
        self.left.store(left.saturating_sub(count), Ordering::Relaxed);
        read
    }
}

const TOO_LONG: &str = "the row is far too long";

/// Reads all rows into the sink.
pub(super) async fn read(reader: impl AsyncRead + Send + Unpin, sink: &mut Sink<'_>) -> Result<(), Broken> {
    let left = Arc::new(AtomicUsize::new(ALLOWANCE));
    let mut reader = AsyncReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .create_reader(Bounded { inner: reader, left: left.clone() });
    let mut record = ByteRecord::new();
    if !next(&mut reader, &mut record).await? {
        return Err(
            OpError::invalid("body", "is empty: the first line must name the columns, one of them address").into()
        );
    }
    let header = header(&record)?;
    sink.columns = header.iter().filter(|c| is_variable(c)).cloned().collect();
    loop {
        left.store(ALLOWANCE, Ordering::Relaxed);
        if !next(&mut reader, &mut record).await? {
            return Ok(());
        }
        let line = record.position().map_or(0, csv_async::Position::line);
        sink.take(line, row(&header, &record)).await?;
    }
}

async fn next<R: AsyncRead + Send + Unpin>(
    reader: &mut AsyncReader<R>,
    record: &mut ByteRecord,
) -> Result<bool, Broken> {
    let line = reader.position().line();
    reader.read_byte_record(record).await.map_err(|error| {
        Broken::Upload(if error.to_string().contains(TOO_LONG) {
            format!("line {line}: the row is longer than {MAX_ROW} bytes; a quote may have been opened and not closed")
        } else {
            format!("the upload broke off after line {line}; the audience was not changed")
        })
    })
}

fn header(record: &ByteRecord) -> Result<Vec<String>, OpError> {
    let bad = |problem: String| OpError::invalid("header", problem);
    let mut columns = Vec::with_capacity(record.len());
    for (n, field) in record.iter().enumerate() {
        let name = std::str::from_utf8(field).map_err(|_| bad(format!("the name of column {} is not UTF-8", n + 1)))?;
        // Spreadsheets put a byte-order mark before the first name.
        columns.push(name.trim_start_matches('\u{feff}').trim().to_owned());
    }
    if let Some(problem) = columns_problem(columns.iter().map(String::as_str)) {
        return Err(bad(problem));
    }
    if !columns.iter().any(|c| c == "address") {
        return Err(bad("no column is named address".to_owned()));
    }
    Ok(columns)
}

fn row(header: &[String], record: &ByteRecord) -> Result<NewContact, String> {
    if record.len() != header.len() {
        return Err(format!("has {} fields where the header has {}", record.len(), header.len()));
    }
    let mut fields = Vec::with_capacity(header.len());
    for (name, value) in header.iter().zip(record.iter()) {
        let value = std::str::from_utf8(value).map_err(|_| format!("column {name}: is not UTF-8"))?;
        fields.push((name.clone(), value.to_owned()));
    }
    contact(fields.into_iter())
}
