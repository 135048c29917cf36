//! Volumes: empty ones, those whose files the bridge resolves, paths of the device, and images.

use std::collections::BTreeMap;

use hawser_wire::ContentHash;
use hawser_wire::deployment::{
    Content, DeviceField, EmptyDir, File, Files, HostPath, ImageVolume, MAX_INLINE, Volume, VolumeSource,
};
use hawser_wire::quantity;
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, KeyToPath,
    PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};

use super::environment::Kind;
use super::{Problem, Translated, common_user, downward, huge_pages, pull_policy};
use crate::deployment::Object;
use crate::deployment::references::{Contents, Fetched, Found, TokenWanted};
use crate::deployment::storage::{self, NoStorage, Storage};
use crate::deployment::subject::Subject;

/// The mode of files when nobody says otherwise.
const DEFAULT_MODE: i32 = 0o644;
/// The mode of a token that only one user or group is to read.
const TOKEN_MODE: i32 = 0o600;

pub(super) fn volume(
    pod: &Subject<'_>,
    volume: &k8s_openapi::api::core::v1::Volume,
    fetched: &Fetched,
    blobs: &mut BTreeMap<ContentHash, Object>,
) -> Translated<Volume> {
    let path = format!("spec.volumes[name={}]", volume.name);
    if let Some(source) = &volume.persistent_volume_claim {
        let source = VolumeSource::HostPath(claimed(pod, volume, source, fetched)?);
        return Ok(Volume { name: volume.name.clone(), source });
    }
    let mut files = Gathered::default();
    if let Some(source) = &volume.config_map {
        let selection =
            Selection { items: source.items.as_deref(), mode: source.default_mode, optional: source.optional };
        files.keys(fetched, Kind::ConfigMap, &source.name, &selection)?;
    } else if let Some(source) = &volume.secret {
        let selection =
            Selection { items: source.items.as_deref(), mode: source.default_mode, optional: source.optional };
        files.keys(fetched, Kind::Secret, source.secret_name.as_deref().unwrap_or_default(), &selection)?;
    } else if let Some(source) = &volume.downward_api {
        files.downward(pod, source.items.as_deref(), source.default_mode, &format!("{path}.downwardAPI"))?;
    } else if let Some(source) = &volume.projected {
        files.projected(pod, source, fetched, &format!("{path}.projected"))?;
    } else if let Some(source) = &volume.host_path {
        let source = VolumeSource::HostPath(host_path(source, &path)?);
        return Ok(Volume { name: volume.name.clone(), source });
    } else if let Some(source) = &volume.image {
        return Ok(Volume { name: volume.name.clone(), source: VolumeSource::Image(image(source)) });
    } else {
        let empty = empty_dir(volume.empty_dir.as_ref(), &path)?;
        let pages = huge_pages::volume(pod.spec, volume.empty_dir.as_ref(), empty.size_limit)?;
        let source = pages.map_or(VolumeSource::EmptyDir(empty), VolumeSource::HugePages);
        return Ok(Volume { name: volume.name.clone(), source });
    }
    files.check_paths()?;
    Ok(Volume { name: volume.name.clone(), source: VolumeSource::Files(files.into_files(blobs)) })
}

fn host_path(source: &HostPathVolumeSource, path: &str) -> Translated<HostPath> {
    let kind = source.type_.as_deref();
    let Some(kind) = storage::host_path_kind(kind) else {
        let kind = kind.unwrap_or_default();
        return Err(Problem::Refused(format!("{path}.hostPath.type: {kind} is an invalid volume type")));
    };
    Ok(HostPath { path: source.path.clone(), kind, of_group: false, only_if_differs: false, local: false })
}

fn image(source: &ImageVolumeSource) -> ImageVolume {
    ImageVolume {
        reference: source.reference.clone().unwrap_or_default(),
        pull_policy: pull_policy(source.pull_policy.as_deref()),
    }
}

/// What meets a claim, or what a kubelet says while nothing does.
fn claimed(
    pod: &Subject<'_>,
    volume: &k8s_openapi::api::core::v1::Volume,
    source: &PersistentVolumeClaimVolumeSource,
    fetched: &Fetched,
) -> Translated<HostPath> {
    let unknown = Storage { claim: Found::Missing, volume: None, node: None };
    let found = fetched.claims.get(&source.claim_name).unwrap_or(&unknown);
    let (name, key) = (&volume.name, (pod.namespace, source.claim_name.as_str()));
    let met = storage::on_device(found, key, name, source.read_only == Some(true));
    let mut path = met.map_err(|problem| match problem {
        NoStorage::NotYet(why) => Problem::Mount(format!(
            "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed to process \
             volumes=[{name}]: {why}"
        )),
        NoStorage::NotHere { volume, why } => {
            Problem::Mount(format!("MountVolume.NodeAffinity check failed for volume \"{volume}\" : {why}"))
        }
        NoStorage::Never(why) => {
            Problem::Refused(format!("spec.volumes[name={name}].persistentVolumeClaim {}: {why}", source.claim_name))
        }
    })?;
    let context = pod.spec.security_context.as_ref();
    let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
    path.only_if_differs = path.of_group && policy == Some("OnRootMismatch");
    Ok(path)
}

fn empty_dir(source: Option<&EmptyDirVolumeSource>, path: &str) -> Translated<EmptyDir> {
    let Some(source) = source else { return Ok(EmptyDir { memory: false, size_limit: None }) };
    let limit = source.size_limit.as_ref().map(|limit| quantity::units(&limit.0)).transpose();
    let limit = limit.map_err(|error| Problem::Refused(format!("{path}.emptyDir.sizeLimit: {error}")))?;
    // A limit of nothing is none, as for a kubelet.
    Ok(EmptyDir { memory: source.medium.as_deref() == Some("Memory"), size_limit: limit.filter(|limit| *limit != 0) })
}

/// Which keys become files, and how.
struct Selection<'s> {
    items: Option<&'s [KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
}

/// The files of a volume by path; a later one replaces an earlier one.
#[derive(Default)]
struct Gathered {
    files: BTreeMap<String, (i32, Piece)>,
    secret: bool,
}

enum Piece {
    Object(Object),
    /// For one user alone.
    Owned(Object, u32),
    Device(DeviceField),
}

impl Gathered {
    fn keys(&mut self, fetched: &Fetched, kind: Kind, name: &str, selection: &Selection<'_>) -> Translated<()> {
        self.secret |= matches!(kind, Kind::Secret);
        let Selection { items, mode, optional } = *selection;
        let mode = mode.unwrap_or(DEFAULT_MODE);
        let empty = Contents::default();
        let contents = kind.contents(fetched, name, optional)?.unwrap_or(&empty);
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, object) in contents.data.iter().chain(&contents.binary) {
                self.files.insert(key.clone(), (mode, Piece::Object(object.clone())));
            }
            return Ok(());
        };
        for item in items {
            match contents.data.get(&item.key).or_else(|| contents.binary.get(&item.key)) {
                Some(object) => self.put(&item.path, item.mode.unwrap_or(mode), Piece::Object(object.clone()))?,
                None if optional == Some(true) => {}
                None => {
                    return Err(Problem::Waits(match kind {
                        Kind::ConfigMap => format!("configmap references non-existent config key: {}", item.key),
                        Kind::Secret => format!("references non-existent secret key: {}", item.key),
                    }));
                }
            }
        }
        Ok(())
    }

    fn downward(
        &mut self,
        pod: &Subject<'_>,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: Option<i32>,
        path: &str,
    ) -> Translated<()> {
        for (at, item) in items.into_iter().flatten().enumerate() {
            let path = format!("{path}.items[{at}]");
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(pod, field, downward::Maps::Yes, &format!("{path}.fieldRef"))?,
                (None, Some(resource)) => downward::resource(pod, resource, None, &format!("{path}.resourceFieldRef"))?,
                (None, None) => return Err(Problem::Refused(format!("{path}: names no field"))),
            };
            let piece = match value {
                downward::Value::Text(text) => Piece::Object(Object::new(text.into_bytes())),
                downward::Value::Device(field) => Piece::Device(field),
            };
            self.put(&item.path, item.mode.or(mode).unwrap_or(DEFAULT_MODE), piece)?;
        }
        Ok(())
    }

    /// All sources, and all that is wrong with them, as a kubelet says it.
    fn projected(
        &mut self,
        pod: &Subject<'_>,
        source: &ProjectedVolumeSource,
        fetched: &Fetched,
        path: &str,
    ) -> Translated<()> {
        let mut missing: Vec<String> = Vec::new();
        for (at, projection) in source.sources.iter().flatten().enumerate() {
            let path = format!("{path}.sources[{at}]");
            match self.projection(pod, projection, source.default_mode, fetched, &path) {
                Err(Problem::Waits(words)) if !missing.contains(&words) => missing.push(words),
                Err(Problem::Waits(_)) => {}
                done => done?,
            }
        }
        match missing.len() {
            0 => Ok(()),
            1 => Err(Problem::Waits(missing.remove(0))),
            _ => Err(Problem::Waits(format!("[{}]", missing.join(", ")))),
        }
    }

    fn projection(
        &mut self,
        pod: &Subject<'_>,
        source: &VolumeProjection,
        mode: Option<i32>,
        fetched: &Fetched,
        path: &str,
    ) -> Translated<()> {
        if let Some(source) = &source.secret {
            let selection = Selection { items: source.items.as_deref(), mode, optional: source.optional };
            self.keys(fetched, Kind::Secret, &source.name, &selection)?;
        }
        if let Some(source) = &source.config_map {
            let selection = Selection { items: source.items.as_deref(), mode, optional: source.optional };
            self.keys(fetched, Kind::ConfigMap, &source.name, &selection)?;
        }
        if let Some(source) = &source.downward_api {
            self.downward(pod, source.items.as_deref(), mode, &format!("{path}.downwardAPI"))?;
        }
        if let Some(source) = &source.service_account_token {
            self.token(pod, source, mode, fetched)?;
        }
        Ok(())
    }

    fn token(
        &mut self,
        pod: &Subject<'_>,
        source: &ServiceAccountTokenProjection,
        mode: Option<i32>,
        fetched: &Fetched,
    ) -> Translated<()> {
        self.secret = true;
        let wanted = TokenWanted::new(source.audience.as_deref(), source.expiration_seconds);
        let object = match fetched.tokens.get(&wanted) {
            Some(Ok(object)) => object.clone(),
            Some(Err(words)) => return Err(Problem::Waits(words.clone())),
            None => return Err(Problem::Waits("failed to fetch token: it was not asked for".to_owned())),
        };
        let group = pod.spec.security_context.as_ref().and_then(|context| context.fs_group);
        let user = common_user(pod.spec);
        let owned = group.is_some() || user.is_some();
        let mode = if owned { TOKEN_MODE } else { mode.unwrap_or(DEFAULT_MODE) };
        let piece = match user.and_then(|user| u32::try_from(user).ok()) {
            Some(user) => Piece::Owned(object, user),
            None => Piece::Object(object),
        };
        self.put(&source.path, mode, piece)
    }

    fn put(&mut self, path: &str, mode: i32, piece: Piece) -> Translated<()> {
        if !is_below(path) {
            return Err(Problem::Refused(format!("the path `{path}` of a volume's file must stay below the volume")));
        }
        self.files.insert(path.to_owned(), (mode, piece));
        Ok(())
    }

    /// A path may not be a file and a folder at once.
    fn check_paths(&self) -> Translated<()> {
        for path in self.files.keys() {
            let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
            if let Some(folder) = folders.into_iter().find(|folder| self.files.contains_key(*folder)) {
                return Err(Problem::Waits(format!("the paths `{folder}` and `{path}` cannot both be files")));
            }
        }
        Ok(())
    }

    fn into_files(self, blobs: &mut BTreeMap<ContentHash, Object>) -> Files {
        let entries = self.files.into_iter().map(|(path, (mode, piece))| {
            let (piece, owner) = match piece {
                Piece::Owned(object, user) => (Piece::Object(object), Some(user)),
                other => (other, None),
            };
            let content = match piece {
                Piece::Device(field) => Content::Device(field),
                Piece::Object(object) | Piece::Owned(object, _) if object.bytes.len() <= MAX_INLINE => {
                    Content::Inline(object.bytes.to_vec())
                }
                Piece::Object(object) | Piece::Owned(object, _) => {
                    let reference = object.reference;
                    blobs.insert(reference.hash, object);
                    Content::Blob(reference)
                }
            };
            // Only permission bits; a negative mode, which no API server lets through, has none of another meaning.
            File { path, mode: mode as u32 & 0o777, content, owner }
        });
        Files { secret: self.secret, entries: entries.collect() }
    }
}

/// Whether a path is relative and made of plain names.
fn is_below(path: &str) -> bool {
    !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        // The writer of a volume keeps its own names under `..`.
        && !path.starts_with("..")
}
