//! Keeping the lab between runs: a snapshot and a journal of what changed since.
//!
//! `secrets.json` (keys and tokens, mode 0600), `snapshot.json` (version and all objects, replaced in one step) and
//! `journal` (one line per change: checksum, space, JSON). A change is answered only after its line is on disk. A torn last
//! line is what a crash leaves and is dropped; a broken line before the last is corruption and refuses the start.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::authority::Secrets;
use crate::kubeconfig::write_private;
use crate::object;
use crate::registry::Storage;
use crate::store::{Change, Store};

/// A journal longer than this is folded into a new snapshot.
const FOLD_AT: u64 = 8 * 1024 * 1024;
/// Versions skipped at each start: a change that a watcher saw, but that a crash kept from the disk, must not be
/// confused with another one under the same version.
const SKIP: u64 = 1000;

/// What went wrong with the lab's files.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// A file or folder cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another lab keeps its data there.
    #[error("{} is in use by another lab: stop it, or give this one another folder", .0.display())]
    InUse(PathBuf),
    /// A file is not what it should be.
    #[error("{} is corrupt at line {line}: move the folder away to start afresh", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
    },
}

fn file_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PersistError + 'a {
    move |source| PersistError::File { what, path: path.to_owned(), source }
}

/// What an earlier run left.
pub(crate) struct Kept {
    pub(crate) secrets: Secrets,
    pub(crate) objects: Vec<(Storage, Value)>,
    pub(crate) version: u64,
}

/// A folder that is ours, before the server runs.
pub(crate) struct Opened {
    folder: PathBuf,
    // Held for as long as the lab runs: the lock goes with the file.
    lock: File,
}

/// The running journal.
pub(crate) struct Journal {
    stop: CancellationToken,
    task: JoinHandle<()>,
    durable: watch::Receiver<u64>,
}

type Objects = BTreeMap<(String, String, String), Value>;

/// Takes a folder, and reads what is there.
pub(crate) fn open(folder: &Path) -> Result<(Opened, Option<Kept>), PersistError> {
    std::fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    let path = folder.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.map_err(file_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(PersistError::InUse(folder.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => return Err(file_error("lock", &path)(error)),
    }
    let opened = Opened { folder: folder.to_owned(), lock };
    let path = folder.join("secrets.json");
    let secrets = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((opened, None)),
        Err(error) => return Err(file_error("read", &path)(error)),
    };
    let secrets = serde_json::from_slice(&secrets).map_err(|_| PersistError::Corrupt { path, line: 1 })?;
    let (mut objects, mut version) = read_snapshot(&folder.join("snapshot.json"))?;
    replay(&folder.join("journal"), &mut objects, &mut version)?;
    let objects = objects.into_iter().map(|((storage, _, _), object)| {
        let (group, plural) = storage.split_once('/').unwrap_or(("", &storage));
        (Storage::new(group, plural), object)
    });
    Ok((opened, Some(Kept { secrets, objects: objects.collect(), version: version + SKIP })))
}

fn key(storage: &str, object: &Value) -> (String, String, String) {
    (storage.to_owned(), object::namespace(object).to_owned(), object::name(object).to_owned())
}

fn read_snapshot(path: &Path) -> Result<(Objects, u64), PersistError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Objects::new(), 1)),
        Err(error) => return Err(file_error("read", path)(error)),
    };
    let corrupt = || PersistError::Corrupt { path: path.to_owned(), line: 1 };
    let mut snapshot: Value = serde_json::from_slice(&bytes).map_err(|_| corrupt())?;
    let version = snapshot.get("version").and_then(Value::as_u64).ok_or_else(corrupt)?;
    let Some(Value::Object(storages)) = snapshot.get_mut("objects").map(Value::take) else { return Err(corrupt()) };
    let mut objects = Objects::new();
    for (storage, all) in storages {
        let Value::Array(all) = all else { return Err(corrupt()) };
        objects.extend(all.into_iter().map(|object| (key(&storage, &object), object)));
    }
    Ok((objects, version))
}

fn replay(path: &Path, objects: &mut Objects, version: &mut u64) -> Result<(), PersistError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file_error("open", path)(error)),
    };
    let mut reader = BufReader::new(file);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        if reader.read_until(b'\n', &mut line).map_err(file_error("read", path))? == 0 {
            return Ok(());
        }
        match record(&line) {
            Some((at, storage, object, deleted)) => {
                if at <= *version {
                    // Already in the snapshot: the journal is emptied after the snapshot is in place.
                    continue;
                }
                *version = at;
                if deleted {
                    objects.remove(&key(&storage, &object));
                } else {
                    objects.insert(key(&storage, &object), object);
                }
            }
            None if reader.fill_buf().map_err(file_error("read", path))?.is_empty() => return Ok(()),
            None => return Err(PersistError::Corrupt { path: path.to_owned(), line: number }),
        }
    }
}

/// Reads a line; none when it is torn or damaged.
fn record(line: &[u8]) -> Option<(u64, String, Value, bool)> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, body) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if sum != crc32fast::hash(body) {
        return None;
    }
    let mut value: Value = serde_json::from_slice(body).ok()?;
    let version = value.get("version")?.as_u64()?;
    let storage = value.get("storage")?.as_str()?.to_owned();
    let deleted = value.get("deleted")?.as_bool()?;
    Some((version, storage, value.get_mut("object")?.take(), deleted))
}

fn line_of(change: &Change) -> Vec<u8> {
    let body = json!({
        "version": change.version, "storage": change.storage.as_str(), "deleted": change.deleted, "object": *change.object,
    })
    .to_string();
    format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes())).into_bytes()
}

struct Files {
    folder: PathBuf,
    journal: File,
    length: u64,
    _lock: File,
}

impl Opened {
    /// Writes a snapshot of what there is, and keeps what changes from now on.
    pub(crate) fn begin(self, store: Arc<Store>, secrets: &Secrets) -> Result<Journal, PersistError> {
        let path = self.folder.join("secrets.json");
        let text = serde_json::to_vec(secrets).map_err(|error| file_error("write", &path)(io::Error::other(error)))?;
        write_private(&path, &text).map_err(file_error("write", &path))?;
        let path = self.folder.join("journal");
        let journal = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let journal = journal.map_err(file_error("open", &path))?;
        let mut files = Files { folder: self.folder, journal, length: 0, _lock: self.lock };
        let version = files.fold(&store)?;
        let (durable, follow) = watch::channel(version);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(files, store, durable, stop.clone()));
        Ok(Journal { stop, task, durable: follow })
    }
}

impl Files {
    fn append(&mut self, changes: &[Arc<Change>]) -> io::Result<()> {
        let lines: Vec<u8> = changes.iter().flat_map(|change| line_of(change)).collect();
        self.journal.write_all(&lines)?;
        self.journal.sync_data()?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Writes a snapshot, then empties the journal: whatever the crash, one of them has each change.
    fn fold(&mut self, store: &Store) -> Result<u64, PersistError> {
        let (version, all) = store.all();
        let mut objects: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for (storage, object) in &all {
            objects.entry(storage.as_str()).or_default().push(object.as_ref());
        }
        let path = self.folder.join("snapshot.json");
        let text = json!({"version": version, "objects": objects}).to_string();
        write_private(&path, text.as_bytes()).map_err(file_error("write", &path))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(file_error("sync", &self.folder))?;
        let path = self.folder.join("journal");
        self.journal.set_len(0).map_err(file_error("empty", &path))?;
        self.length = 0;
        Ok(version)
    }
}

/// Writes changes as they come, several at once when they come fast, until stopped.
async fn keep(mut files: Files, store: Arc<Store>, durable: watch::Sender<u64>, stop: CancellationToken) {
    let mut newest = store.follow();
    loop {
        let stopping = tokio::select! {
            biased;
            // Cancel-safe: `changed` marks a version as seen only when it returns.
            changed = newest.changed() => changed.is_err(),
            // Cancel-safe: keeps nothing.
            () = stop.cancelled() => true,
        };
        let version = store.version();
        let changes = store.take_unsaved();
        let (back, result) = match tokio::task::spawn_blocking({
            let store = store.clone();
            move || {
                let mut result = files.append(&changes).map_err(|error| error.to_string());
                if result.is_ok() && files.length > FOLD_AT {
                    result = files.fold(&store).map(|_| ()).map_err(|error| error.to_string());
                }
                (files, result)
            }
        })
        .await
        {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the lab's journal stopped: nothing is kept from here on");
                return;
            }
        };
        files = back;
        if let Err(error) = result {
            // The lab goes on in memory: a full disk must not take a desk's work away.
            tracing::error!(error, "a change could not be kept: it lives in memory only");
        }
        durable.send_replace(version);
        if stopping {
            return;
        }
    }
}

impl Journal {
    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }

    /// Writes what is left, then lets the folder go.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the lab's journal failed at its end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(version: u64, name: &str, deleted: bool) -> Vec<u8> {
        line_of(&Change {
            version,
            storage: Storage::new("", "pods"),
            before: None,
            object: Arc::new(json!({"metadata": {"namespace": "a", "name": name}})),
            deleted,
        })
    }

    fn replayed(content: &[u8]) -> Result<(Vec<String>, u64), PersistError> {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("journal");
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{e}"));
        let (mut objects, mut version) = (Objects::new(), 1);
        replay(&path, &mut objects, &mut version)?;
        Ok((objects.into_keys().map(|(_, _, name)| name).collect(), version))
    }

    #[test]
    fn the_journal_gives_back_what_was_written() {
        let content = [line(2, "x", false), line(3, "y", false), line(4, "x", true)].concat();
        assert_eq!(replayed(&content).unwrap_or_else(|e| panic!("{e}")), (vec!["y".to_owned()], 4));
    }

    #[test]
    fn a_torn_end_is_dropped_at_every_length() {
        let (first, second) = (line(2, "x", false), line(3, "y", false));
        for cut in 0..second.len() {
            let content = [&first, &second[..cut]].concat();
            assert_eq!(replayed(&content).unwrap_or_else(|e| panic!("{e}")), (vec!["x".to_owned()], 2), "{cut}");
        }
    }

    #[test]
    fn damage_before_the_end_is_corruption() {
        let mut content = [line(2, "x", false), line(3, "y", false)].concat();
        content[20] ^= 1;
        assert!(matches!(replayed(&content), Err(PersistError::Corrupt { line: 1, .. })));
    }

    #[test]
    fn a_folder_serves_one_lab() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let first = open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(open(folder.path()), Err(PersistError::InUse(_))));
        drop(first);
        assert!(open(folder.path()).is_ok());
    }
}
