//! Ed25519 keys: what signs, what checks, and how a key is named.
//!
//! A key's id is the SHA-256 of its public half as SubjectPublicKeyInfo in DER, so that
//! `openssl pkey -pubin -outform DER | sha256sum` gives it too.

mod ring;

pub use ring::KeyRing;

use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::commitment::random;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

/// Longer than any key file.
const MAX_PEM: usize = 4096;

/// The public half of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: Digest,
    pem: String,
}

impl PublicKey {
    fn new(key: VerifyingKey) -> Result<PublicKey> {
        let bad = |why: &str| Error::new(Kind::Invalid, "cannot use this public key", why);
        if key.is_weak() {
            return Err(bad("it is one that signatures of anybody fit"));
        }
        let der = key.to_public_key_der().map_err(|e| bad(&e.to_string()))?;
        let pem = key.to_public_key_pem(Default::default()).map_err(|e| bad(&e.to_string()))?;
        Ok(PublicKey { id: Digest::of(der.as_bytes()), pem, key })
    }

    /// Reads a key as [`PublicKey::to_pem`] and `openssl pkey -pubout` write it.
    pub fn from_pem(pem: &str) -> Result<PublicKey> {
        let bad = |why: String| {
            Error::new(Kind::Invalid, "cannot read the public key", why).hint(
                "give an Ed25519 key that begins with -----BEGIN PUBLIC KEY-----, as `mvmctl key export` prints it",
            )
        };
        if pem.len() > MAX_PEM {
            return Err(bad("it is longer than any".to_owned()));
        }
        PublicKey::new(VerifyingKey::from_public_key_pem(pem).map_err(|e| bad(e.to_string()))?)
    }

    /// SubjectPublicKeyInfo in PEM.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// The key's id.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The 32 bytes of the key itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether a signature is this key's, by the strict rules that leave a message and a key only one.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// A key with its private half, which is wiped from memory on drop and never shown.
pub struct Signer {
    key: SigningKey,
    public: PublicKey,
}

impl Signer {
    /// A new key, from the kernel's generator.
    pub fn generate() -> Result<Signer> {
        Signer::from_seed(&Zeroizing::new(random()?))
    }

    /// The key that RFC 8032 makes of these 32 bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Signer> {
        Signer::new(SigningKey::from_bytes(seed))
    }

    fn new(key: SigningKey) -> Result<Signer> {
        Ok(Signer { public: PublicKey::new(key.verifying_key())?, key })
    }

    /// Reads a PKCS#8 key in PEM, as the key ring and `openssl genpkey` write it.
    pub fn from_pem(pem: &str) -> Result<Signer> {
        let bad = |why: String| Error::new(Kind::Damaged, "cannot read the private key", why);
        if pem.len() > MAX_PEM {
            return Err(bad("it is longer than any".to_owned()));
        }
        Signer::new(SigningKey::from_pkcs8_pem(pem).map_err(|e| bad(e.to_string()))?)
    }

    /// PKCS#8 in PEM. Without the public half in it: older versions of OpenSSL refuse that form.
    fn to_pem(&self) -> Result<Zeroizing<String>> {
        let pair = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(Default::default()).map_err(|e| Error::new(Kind::Invalid, "cannot encode the key", e))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message. The same message always has the same signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_files_and_show_nothing_private() {
        let signer = Signer::from_seed(&[0x5a; 32]).unwrap();
        let pem = signer.to_pem().unwrap();
        let again = Signer::from_pem(&pem).unwrap();
        assert_eq!(again.public(), signer.public());
        assert_eq!(PublicKey::from_pem(signer.public().to_pem()).unwrap(), *signer.public());
        let signature = again.sign(b"x");
        assert!(signer.public().verify(b"x", &signature) && !signer.public().verify(b"y", &signature));
        assert_eq!(format!("{signer:?}"), format!("Signer({})", signer.public().id()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        // The neutral element: a key for which some signatures fit every message.
        let weak = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
        for bad in ["", "x", weak, &"A".repeat(5000), "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n"] {
            assert_eq!(PublicKey::from_pem(bad).unwrap_err().kind, Kind::Invalid, "{bad}");
            assert_eq!(Signer::from_pem(bad).unwrap_err().kind, Kind::Damaged, "{bad}");
        }
    }
}
