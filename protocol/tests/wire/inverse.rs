//! For every value: decoding what was encoded gives the value back, takes no byte of what follows,
//! and does so however the bytes arrive: each proper prefix gives `None` and is left alone.

use std::fmt::Debug;

use bytes::BytesMut;
use proptest::prelude::*;
use sandstone_protocol::*;

use crate::values;

fn check<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T, &mut BytesMut),
    decode: impl Fn(&mut BytesMut) -> Result<Option<T>, DecodeError>,
) {
    const NEXT: &[u8] = b"the next message";
    let mut bytes = BytesMut::new();
    encode(value, &mut bytes);
    for split in 0..bytes.len() {
        let mut prefix = BytesMut::from(&bytes[..split]);
        assert_eq!(decode(&mut prefix), Ok(None), "after {split} of {} bytes", bytes.len());
        assert_eq!(prefix, bytes[..split], "a prefix was consumed");
    }
    bytes.extend_from_slice(NEXT);
    assert_eq!(decode(&mut bytes).unwrap().as_ref(), Some(value));
    assert_eq!(&bytes[..], NEXT);
}

fn decode_option(buf: &mut BytesMut) -> Result<Option<OptionRequest>, DecodeError> {
    Ok(OptionDecoder::new().decode(buf)?.map(|received| match received {
        ReceivedOption::Request(request) => request,
        other => panic!("not well-formed: {other:?}"),
    }))
}

proptest! {
    #[test]
    fn greeting(value in values::greeting()) {
        check(&value, Greeting::encode, Greeting::decode);
    }

    #[test]
    fn client_flags(bits in any::<u32>()) {
        let flags = ClientFlags::from_bits(bits);
        check(&flags, |flags, out| flags.encode(out), |buf| Ok(ClientFlags::decode(buf)));
    }

    #[test]
    fn option_request(value in values::option_request()) {
        check(&value, OptionRequest::encode, decode_option);
    }

    #[test]
    fn option_reply(value in values::option_reply()) {
        check(&value, OptionReply::encode, OptionReply::decode);
    }

    #[test]
    fn export_name_reply(value in values::export_name_reply()) {
        check(&value, ExportNameReply::encode, |buf| ExportNameReply::decode(buf, value.zeroes));
    }

    #[test]
    fn request(value in values::request()) {
        check(&value, Request::encode, Request::decode);
    }

    #[test]
    fn reply(value in values::reply()) {
        check(&value, Reply::encode, Reply::decode);
    }

    /// One decoder over a stream of options, cut anywhere.
    #[test]
    fn options_in_a_stream(
        sent in prop::collection::vec(values::option_request(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = BytesMut::new();
        sent.iter().for_each(|option| option.encode(&mut bytes));
        let tail = bytes.split_off(cut.index(bytes.len() + 1));
        let mut decoder = OptionDecoder::new();
        let mut received = vec![];
        for part in [tail, BytesMut::new()] {
            while let Some(option) = decoder.decode(&mut bytes).unwrap() {
                received.push(option);
            }
            bytes.unsplit(part);
        }
        let expected: Vec<_> = sent.into_iter().map(ReceivedOption::Request).collect();
        prop_assert_eq!(received, expected);
    }
}
