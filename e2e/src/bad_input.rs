//! Whether every test that the tables in `docs` name is there.

use std::collections::BTreeSet;
use std::path::Path;

fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, names);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter_map(|line| line.split_once("fn ")?.1.split_once('('));
            names.extend(lines.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_test_that_the_tables_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    collect(&root, &mut names);
    for (file, least) in [("docs/bad-input.md", 30), ("docs/virtual-kubelet-e2e.md", 10)] {
        let table = std::fs::read_to_string(root.join(file)).unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| "));
        let named: Vec<_> = rows.flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
        assert!(named.len() > least, "{file} was not read: {named:?}");
        let named = named.into_iter().filter(|name| !name.starts_with('/'));
        let missing: Vec<_> = named.filter(|name| !names.contains(*name)).collect();
        assert!(missing.is_empty(), "{file} names tests that do not exist: {missing:#?}");
    }
}
