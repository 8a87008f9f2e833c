//! Credentials: from the environment, or else from the profile that the tools of AWS use. Never from an option, and never shown.

use std::path::PathBuf;

use ini::Ini;
use kvfs::engine::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

/// What the environment says of S3, and where it has no credentials, the profile.
///
/// The profile is the section `$AWS_PROFILE` or `default` of `$AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`, and of `$AWS_CONFIG_FILE` or
/// `~/.aws/config`.
pub fn s3() -> Result<AmazonS3Builder> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut builder = AmazonS3Builder::from_env();
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_string());
    let home = || Some(PathBuf::from(variable("HOME")?).join(".aws"));
    let file = |name: &str, usual: &str| {
        variable(name).map(PathBuf::from).or_else(|| Some(home()?.join(usual))).filter(|path| path.exists())
    };
    let sections = [
        (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile.clone()),
        (file("AWS_CONFIG_FILE", "config"), section_of_config(&profile)),
    ];
    for (path, section) in sections {
        let Some(path) = path else { continue };
        // The error of the parser would show a line of the file.
        let text = Ini::load_from_file(&path).map_err(|_| {
            Error::Invalid(format!("{}: it is no file of profiles: look at its lines", path.display()))
        })?;
        for (name, value) in text.section(Some(&section)).into_iter().flat_map(|section| section.iter()) {
            builder = match key_of(name) {
                Some(key) if builder.get_config_value(&key).is_none() => builder.with_config(key, value),
                _ => builder,
            };
        }
    }
    Ok(builder)
}

/// Profiles other than the default have another name in the second file.
fn section_of_config(profile: &str) -> String {
    if profile == "default" { profile.to_string() } else { format!("profile {profile}") }
}

fn key_of(name: &str) -> Option<AmazonS3ConfigKey> {
    match name {
        "aws_access_key_id" => Some(AmazonS3ConfigKey::AccessKeyId),
        "aws_secret_access_key" => Some(AmazonS3ConfigKey::SecretAccessKey),
        "aws_session_token" => Some(AmazonS3ConfigKey::Token),
        "region" => Some(AmazonS3ConfigKey::Region),
        "endpoint_url" => Some(AmazonS3ConfigKey::Endpoint),
        _ => None,
    }
}
