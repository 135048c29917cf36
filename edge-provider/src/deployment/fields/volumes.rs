//! The fields of volumes, and of how containers mount them.

use super::Allowed::{Beginning, Text};
use super::Verdict::{self, Mapped, Only, Refused, Table};
use super::{FIELD_SELECTOR, RESOURCE_SELECTOR};

const STORAGE: Verdict = Refused("a device cannot mount this kind of volume");
const GENERIC: Verdict = Refused(
    "a device provides no volumes by itself: use an emptyDir for what may go with the pod, or a claim bound to a local volume \
     of the device",
);

pub(crate) const MOUNT: &[(&str, Verdict)] = &[
    ("mountPath", Mapped),
    ("mountPropagation", Mapped),
    ("name", Mapped),
    ("readOnly", Mapped),
    ("recursiveReadOnly", Mapped),
    ("subPath", Mapped),
    ("subPathExpr", Mapped),
];

pub(crate) const VOLUME: &[(&str, Verdict)] = &[
    ("awsElasticBlockStore", STORAGE),
    ("azureDisk", STORAGE),
    ("azureFile", STORAGE),
    ("cephfs", STORAGE),
    ("cinder", STORAGE),
    ("configMap", Table(CONFIG_MAP_VOLUME)),
    ("csi", STORAGE),
    ("downwardAPI", Table(DOWNWARD_VOLUME)),
    ("emptyDir", Table(EMPTY_DIR)),
    ("ephemeral", GENERIC),
    ("fc", STORAGE),
    ("flexVolume", STORAGE),
    ("flocker", STORAGE),
    ("gcePersistentDisk", STORAGE),
    ("gitRepo", STORAGE),
    ("glusterfs", STORAGE),
    ("hostPath", Table(HOST_PATH)),
    ("image", Table(IMAGE_VOLUME)),
    ("iscsi", STORAGE),
    ("name", Mapped),
    ("nfs", STORAGE),
    // What meets the claim decides.
    ("persistentVolumeClaim", Table(CLAIM)),
    ("photonPersistentDisk", STORAGE),
    ("portworxVolume", STORAGE),
    ("projected", Table(PROJECTED)),
    ("quobyte", STORAGE),
    ("rbd", STORAGE),
    ("scaleIO", STORAGE),
    ("secret", Table(SECRET_VOLUME)),
    ("storageos", STORAGE),
    ("vsphereVolume", STORAGE),
];

pub(crate) const IMAGE_VOLUME: &[(&str, Verdict)] = &[("pullPolicy", Mapped), ("reference", Mapped)];

pub(crate) const CONFIG_MAP_VOLUME: &[(&str, Verdict)] =
    &[("defaultMode", Mapped), ("items", Table(KEY_TO_PATH)), ("name", Mapped), ("optional", Mapped)];

pub(crate) const SECRET_VOLUME: &[(&str, Verdict)] =
    &[("defaultMode", Mapped), ("items", Table(KEY_TO_PATH)), ("optional", Mapped), ("secretName", Mapped)];

pub(crate) const DOWNWARD_VOLUME: &[(&str, Verdict)] = &[("defaultMode", Mapped), ("items", Table(DOWNWARD_FILE))];

pub(crate) const DOWNWARD_FILE: &[(&str, Verdict)] = &[
    ("fieldRef", Table(FIELD_SELECTOR)),
    ("mode", Mapped),
    ("path", Mapped),
    ("resourceFieldRef", Table(RESOURCE_SELECTOR)),
];

pub(crate) const KEY_TO_PATH: &[(&str, Verdict)] = &[("key", Mapped), ("mode", Mapped), ("path", Mapped)];

pub(crate) const CLAIM: &[(&str, Verdict)] = &[("claimName", Mapped), ("readOnly", Mapped)];

pub(crate) const HOST_PATH: &[(&str, Verdict)] = &[("path", Mapped), ("type", Mapped)];

pub(crate) const EMPTY_DIR: &[(&str, Verdict)] = &[
    (
        "medium",
        Only(
            &[Text(""), Text("Memory"), Text("HugePages"), Beginning("HugePages-")],
            "a device has disk, memory and huge pages only",
        ),
    ),
    ("sizeLimit", Mapped),
];

pub(crate) const PROJECTED: &[(&str, Verdict)] = &[("defaultMode", Mapped), ("sources", Table(PROJECTION))];

pub(crate) const PROJECTION: &[(&str, Verdict)] = &[
    ("clusterTrustBundle", Refused("the bridge does not read trust bundles yet")),
    ("configMap", Table(KEYS_PROJECTION)),
    ("downwardAPI", Table(DOWNWARD_PROJECTION)),
    ("podCertificate", Refused("the bridge does not request pod certificates yet")),
    ("secret", Table(KEYS_PROJECTION)),
    ("serviceAccountToken", Table(TOKEN_PROJECTION)),
];

pub(crate) const KEYS_PROJECTION: &[(&str, Verdict)] =
    &[("items", Table(KEY_TO_PATH)), ("name", Mapped), ("optional", Mapped)];

pub(crate) const DOWNWARD_PROJECTION: &[(&str, Verdict)] = &[("items", Table(DOWNWARD_FILE))];

pub(crate) const TOKEN_PROJECTION: &[(&str, Verdict)] =
    &[("audience", Mapped), ("expirationSeconds", Mapped), ("path", Mapped)];
