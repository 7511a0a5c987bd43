//! A receipt's file: a DSSE envelope, version 1, with one signature, in exactly one spelling.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::keys::{PublicKey, Signer};
use crate::refusal::{Part, Refusal};
use crate::statement::{MAX_PAYLOAD, Statement};

/// The `payloadType` of in-toto statements.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The longest file, in bytes.
pub const MAX_ENVELOPE: usize = MAX_PAYLOAD / 3 * 4 + 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: String,
    sig: String,
}

/// A signed statement. Its parts are as the file has them; only [`Envelope::verify`] says that they are true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload: Vec<u8>,
    keyid: Digest,
    signature: [u8; 64],
}

/// What a good envelope proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What was signed.
    pub statement: Statement,
    /// The id of the key that signed it.
    pub keyid: Digest,
    /// The SHA-256 of the file: what the audit log has of the receipt.
    pub digest: Digest,
    /// The SHA-256 of the payload: what the audit log has of the run's end.
    pub payload_digest: Digest,
}

impl Envelope {
    /// Signs a statement.
    pub fn sign(statement: &Statement, signer: &Signer) -> Result<Envelope, Refusal> {
        let payload = statement.to_payload()?;
        let signature = signer.sign(&pre_authentication_encoding(&payload));
        Ok(Envelope { payload, keyid: signer.public().id(), signature })
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Base64 and hexadecimal digits need no escapes in JSON.
        format!(
            "{{\"payload\":\"{}\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":[{{\"keyid\":\"{}\",\"sig\":\"{}\"}}]}}\n",
            STANDARD.encode(&self.payload),
            self.keyid,
            STANDARD.encode(self.signature)
        )
        .into_bytes()
    }

    /// Reads a file without believing it.
    pub fn parse(bytes: &[u8]) -> Result<Envelope, Refusal> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(Refusal::TooLarge(Part::Envelope));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| Refusal::json(Part::Envelope, &e))?;
        if wire.payload_type != PAYLOAD_TYPE {
            return Err(Refusal::WrongPayloadType);
        }
        let [signature] = &wire.signatures[..] else { return Err(Refusal::NotOneSignature) };
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| Refusal::BadBase64(Part::Envelope));
        let envelope = Envelope {
            payload: decode(&wire.payload)?,
            keyid: signature
                .keyid
                .parse()
                .map_err(|why: String| Refusal::shape(Part::Envelope, format!("keyid: {why}")))?,
            signature: decode(&signature.sig)?
                .try_into()
                .map_err(|_| Refusal::shape(Part::Envelope, "sig: not the 64 bytes of an Ed25519 signature"))?,
        };
        if envelope.to_bytes() != bytes {
            return Err(Refusal::NotCanonical(Part::Envelope));
        }
        Ok(envelope)
    }

    /// Checks a file against the keys that are trusted. Nothing of the payload is looked at before its signature fits.
    pub fn verify(bytes: &[u8], keys: &[PublicKey]) -> Result<Verified, Refusal> {
        let envelope = Envelope::parse(bytes)?;
        let key = keys.iter().find(|key| key.id() == envelope.keyid).ok_or(Refusal::UnknownKey(Part::Envelope))?;
        if !key.verify(&pre_authentication_encoding(&envelope.payload), &envelope.signature) {
            return Err(Refusal::BadSignature(Part::Envelope));
        }
        let statement = Statement::from_payload(&envelope.payload)?;
        let payload_digest = Digest::of(&envelope.payload);
        Ok(Verified { statement, keyid: envelope.keyid, digest: Digest::of(bytes), payload_digest })
    }
}

/// What is signed: DSSE's PAE of payload type and payload.
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
