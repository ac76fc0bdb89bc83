//! The admin token: made at first start, kept in a file that only its owner may read, never shown.

use sandstone_config::trust::{self, Distrust};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Random bytes of a token that we make: 256 bits cannot be guessed.
const TOKEN_RANDOM_BYTES: usize = 32;
/// Least length of a token that an operator put into the file, in bytes. A guess that stops "admin"
/// and "test".
const TOKEN_LEN_MIN: usize = 16;
/// Most bytes that are read as a token, so that a wrong path (the store!) is not read whole.
const TOKEN_LEN_MAX: u64 = 4096;

/// A secret. It has no `Display`, and its `Debug` says nothing, so that it cannot get into a log by
/// accident.
#[derive(Clone)]
pub(crate) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Why there is no token.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    /// It is not there. Only reading says so; the server makes one.
    #[error(
        "there is no admin token at {0}: start the server once, or name its configuration with \
         --config or the token with --token"
    )]
    Missing(PathBuf),
    /// It cannot be read or made.
    #[error(
        "the admin token {0} cannot be used ({1}): run as the server's user, or give the token with \
         --token"
    )]
    Io(PathBuf, #[source] io::Error),
    /// Others may have put it there.
    #[error(
        "the admin token {0} {1}, so it is not relied on: run as the server's user, put a file of \
         its own there, or delete it and start the server, which makes a new one"
    )]
    Untrusted(PathBuf, #[source] Distrust),
    /// What is in the file cannot be a token.
    #[error(
        "{0} is no admin token (one line of {TOKEN_LEN_MIN} or more visible characters): delete it \
         and start the server, which makes a new one"
    )]
    Unusable(PathBuf),
}

impl Token {
    /// A token given on the command line.
    pub(crate) fn given(text: String) -> Token {
        Token(text)
    }

    /// Reads the token that a server has made.
    pub(crate) fn read(path: &Path) -> Result<Token, TokenError> {
        let bytes = trust::read_own(path, TOKEN_LEN_MAX).map_err(|why| match why {
            Distrust::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                TokenError::Missing(path.into())
            }
            Distrust::Io(error) => TokenError::Io(path.into(), error),
            Distrust::TooLarge(_) => TokenError::Unusable(path.into()),
            why => TokenError::Untrusted(path.into(), why),
        })?;
        let text = String::from_utf8(bytes).map_err(|_| TokenError::Unusable(path.into()))?;
        let text = text.trim();
        if text.len() < TOKEN_LEN_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Unusable(path.into()));
        }
        Ok(Token(text.to_owned()))
    }

    /// Reads the token, or makes it if there is none: written whole to a file of another name and
    /// linked into place, so that no reader sees a part, and of two servers that start at once both
    /// use the first one's.
    pub(crate) fn read_or_make(path: &Path) -> Result<Token, TokenError> {
        match Token::read(path) {
            Err(TokenError::Missing(_)) => {}
            Ok(token) => {
                warn_if_others_may_read(path);
                return Ok(token);
            }
            Err(
                error @ (TokenError::Io(..) | TokenError::Untrusted(..) | TokenError::Unusable(_)),
            ) => {
                return Err(error);
            }
        }
        make(path).map_err(|error| TokenError::Io(path.into(), error))?;
        Token::read(path)
    }

    /// Whether that is the token, in a time that does not tell how much of it is right.
    pub(crate) fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The text, for the one header that carries it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

fn make(path: &Path) -> io::Result<()> {
    let mut random = [0; TOKEN_RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');

    let directory = path.parent().unwrap_or(Path::new("."));
    // tempfile makes files of mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(directory)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

fn warn_if_others_may_read(path: &Path) {
    const OTHERS: u32 = 0o077;
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if let Ok(mode) = mode
        && mode & OTHERS != 0
    {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "others may read the admin token; chmod it to 600");
    }
}

/// Makes the data directory, for its owner only, unless it is there: an existing one keeps its
/// mode.
pub(crate) fn make_data_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_the_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("a/data");
        make_data_dir(&data_dir).unwrap();
        make_data_dir(&data_dir).unwrap();
        assert_eq!(fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);

        let path = data_dir.join("admin.token");
        assert!(matches!(Token::read(&path), Err(TokenError::Missing(_))));
        let made = Token::read_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(made.reveal().len(), 2 * TOKEN_RANDOM_BYTES);
        assert_eq!(Token::read_or_make(&path).unwrap().reveal(), made.reveal());
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn tokens_made_at_once_are_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.token");
        let tokens: Vec<Token> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Token::read_or_make(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(tokens.iter().all(|token| token.matches(tokens[0].reveal())));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.token");
        for text in ["", "short\n", "with a blank inside it\n"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Token::read_or_make(&path), Err(TokenError::Unusable(_))), "{text:?}");
        }
        fs::write(&path, "an-operators-own-token\n").unwrap();
        assert!(Token::read(&path).unwrap().matches("an-operators-own-token"));
    }

    #[test]
    fn a_token_that_others_may_have_put_there_is_not_relied_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.token");
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "0123456789abcdef0123456789abcdef\n").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let error = Token::read_or_make(&path).unwrap_err();
        assert!(
            matches!(error, TokenError::Untrusted(..))
                && error.to_string().contains("symbolic link"),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        fs::copy(&elsewhere, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::Untrusted(..))));
        fs::remove_file(&path).unwrap();
        let (cwd, mode) = (rustix::fs::CWD, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(cwd, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = Token::read(&path).unwrap_err().to_string();
        assert!(error.contains("a pipe"), "{error}");
    }

    #[test]
    fn a_token_matches_itself_only_and_does_not_show() {
        let token = Token::given("0123456789abcdef".into());
        assert!(token.matches("0123456789abcdef"));
        for other in ["", "0123456789abcdeg", "0123456789abcde", "0123456789abcdef0"] {
            assert!(!token.matches(other), "{other}");
        }
        assert!(!format!("{token:?}").contains("0123"));
    }
}
