//! The daemon's end of the control socket. Only root may connect: the socket has mode 0600.

use super::{MAX_MESSAGE, Reason, Reply, Request};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// A request with the place for its answer.
pub type Asked = (Request, oneshot::Sender<Result<serde_json::Value, Reason>>);

/// Opens the socket. Fails if another daemon answers there.
pub fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(std::io::Error::other(format!("another remap-guardian answers at {}", socket.display())));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves connections for ever; requests go to `asked`.
pub async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, asked).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket does not accept");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, asked: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut message = Vec::new();
        (&mut read).take(MAX_MESSAGE as u64).read_until(0, &mut message).await?;
        if message.pop() != Some(0) {
            return Ok(());
        }
        let mut answer = serde_json::to_vec(&answer(&message, &asked).await)?;
        answer.push(0);
        write.write_all(&answer).await?;
    }
}

async fn answer(message: &[u8], asked: &mpsc::Sender<Asked>) -> Reply {
    let request = match serde_json::from_slice(message) {
        Ok(request) => request,
        Err(error) => return Err(Reason::from(format!("not a request: {error}"))).into(),
    };
    let (tell, told) = oneshot::channel();
    let gone = || Reason::from("the daemon is stopping".to_string());
    match asked.send((request, tell)).await {
        Ok(()) => told.await.unwrap_or_else(|_| Err(gone())).into(),
        Err(_) => Err(gone()).into(),
    }
}
