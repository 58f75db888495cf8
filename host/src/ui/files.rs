//! Forms with a file: their text fields come first (the proof among them) in a fixed order, as our pages have them, then
//! the file, which is read as it arrives.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::Failure;
use super::session::{Fields, Session};
use crate::campaign::BadField;

/// How long an upload may pause.
const PAUSES_AT_MOST: Duration = Duration::from_secs(60);
/// The longest text field of such a form, in bytes.
const MAX_TEXT: usize = 4096;
/// Pieces of a file on their way between the connection and its reader.
const PIECES: usize = 16;

impl From<MultipartError> for Failure {
    fn from(_: MultipartError) -> Self {
        Self::Invalid(vec![BadField::new("", "the upload broke off, or is not a form with a file")])
    }
}

/// Reads the proof and the named text fields. The form's next field is then the file; none of it was read if the proof
/// is not this session's.
pub(super) async fn texts(form: &mut Multipart, session: &Session, names: &[&str]) -> Result<Fields, Failure> {
    let mut fields = Fields::default();
    for name in ["csrf"].iter().chain(names) {
        let mut field = form.next_field().await?.filter(|f| f.name() == Some(name)).ok_or(Failure::BadForm)?;
        let mut text = Vec::new();
        while let Some(chunk) = chunk(&mut field).await? {
            if text.len() + chunk.len() > MAX_TEXT {
                return Err(Failure::Invalid(vec![BadField::new(*name, "is too long")]));
            }
            text.extend_from_slice(&chunk);
        }
        fields.0.push(((*name).to_owned(), String::from_utf8_lossy(&text).into_owned()));
    }
    if session.proves(fields.get("csrf")) { Ok(fields) } else { Err(Failure::BadForm) }
}

/// The file, and whether there is one: browsers send an empty one without a name when none was chosen.
pub(super) async fn file<'a>(form: &'a mut Multipart) -> Result<Option<Field<'a>>, Failure> {
    Ok(form.next_field().await?.filter(|f| f.file_name().is_some_and(|name| !name.is_empty())))
}

/// The next piece of a field, if it comes in time.
async fn chunk(field: &mut Field<'_>) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(PAUSES_AT_MOST, field.chunk()).await {
        Ok(chunk) => Ok(chunk?),
        Err(_) => Err(Failure::Invalid(vec![BadField::new("", "the upload paused for too long")])),
    }
}

/// All of a file, up to a limit.
pub(super) async fn whole(mut field: Field<'_>, limit: u64) -> Result<Bytes, Failure> {
    let mut out = Vec::new();
    while let Some(chunk) = chunk(&mut field).await? {
        if (out.len() + chunk.len()) as u64 > limit {
            let problem = format!("is larger than the limit of {}", super::format::bytes(limit));
            return Err(Failure::Invalid(vec![BadField::new("file", problem)]));
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out.into())
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// Where a file's bytes go in.
pub(super) struct Pump(mpsc::Sender<Piece>);

/// A reader for another task, and where its bytes go in. A pump that goes away before the end (the browser left) is an
/// error to the reader: half a file must not pass for a whole one.
pub(super) fn pipe() -> (Pump, impl AsyncRead + Send + Unpin + 'static) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let pieces = futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver: mpsc::Receiver<Piece> = receiver?;
        match receiver.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(receiver))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload broke off")), None)),
        }
    });
    (Pump(sender), StreamReader::new(Box::pin(pieces)))
}

impl Pump {
    /// Sends all of a file. Ends early when the reader has gone.
    pub async fn send(self, mut field: Field<'_>) -> Result<(), Failure> {
        while let Some(chunk) = chunk(&mut field).await? {
            if self.0.send(Piece::Bytes(chunk)).await.is_err() {
                return Ok(());
            }
        }
        let _ = self.0.send(Piece::End).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn a_file_that_breaks_off_is_an_error_to_its_reader() {
        let mut text = String::new();
        let (pump, mut reader) = pipe();
        pump.0.send(Piece::Bytes(Bytes::from_static(b"a,b\n"))).await.unwrap();
        pump.0.send(Piece::End).await.unwrap();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "a,b\n");

        let (pump, mut reader) = pipe();
        pump.0.send(Piece::Bytes(Bytes::from_static(b"a,b\n"))).await.unwrap();
        drop(pump);
        let error = reader.read_to_string(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
