import { describe, expect, test } from '@jest/globals'
import { Signer } from '../../drivers/store/s3-signature.ts'

/** The examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, with their keys and answers. */
const signer = new Signer({
  accessKey: 'AKIAIOSFODNN7EXAMPLE',
  secretKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
  region: 'us-east-1'
})
const at = new Date('2013-05-24T00:00:00.678Z')
const host = 'examplebucket.s3.amazonaws.com'
const ofNothing = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
const ofText = '44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072'
const bare = { host, 'x-amz-content-sha256': ofNothing }

function sent(pairs: string[]): Record<string, string> {
  const headers: Record<string, string> = {}
  for (let at = 0; at < pairs.length; at += 2) headers[pairs[at]!] = pairs[at + 1]!
  return headers
}

describe('Signer', () => {
  test.each([
    [
      'a range of an object',
      { method: 'GET', path: '/test.txt', query: [], headers: { ...bare, range: 'bytes=0-9' } },
      'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41'
    ],
    [
      'an object that is put, with its body',
      {
        method: 'PUT',
        path: '/test%24file.text',
        query: [],
        headers: {
          ...{ host, 'x-amz-content-sha256': ofText, 'x-amz-storage-class': 'REDUCED_REDUNDANCY' },
          date: 'Fri, 24 May 2013 00:00:00 GMT'
        }
      },
      '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd'
    ],
    [
      'a question without a value',
      { method: 'GET', path: '/', query: ['lifecycle='], headers: bare },
      'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543'
    ],
    [
      'questions, in whatever order they are asked',
      { method: 'GET', path: '/', query: ['prefix=J', 'max-keys=2'], headers: bare },
      '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7'
    ]
  ])('signs %s as S3 does', (_what, request, signature) => {
    const headers = sent(signer.sign(request, at))
    expect(headers).toMatchObject({ ...request.headers, 'x-amz-date': '20130524T000000Z' })
    expect(headers.authorization).toMatch(
      /^AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE\/20130524\/us-east-1\/s3\/aws4_request, SignedHeaders=/
    )
    expect(headers.authorization).toContain(`, Signature=${signature}`)
  })

  test('has another key each day, and sends what it does not sign', () => {
    const request = { method: 'GET', path: '/test.txt', query: [], headers: { ...bare, range: 'bytes=0-9' } }
    const first = signer.sign(request, at)
    expect(signer.sign(request, new Date('2013-05-25T00:00:00Z'))).not.toEqual(first)
    expect(signer.sign(request, at)).toEqual(first)
    const expecting = sent(signer.sign({ ...request, headers: { ...request.headers, expect: '100-continue' } }, at))
    expect(expecting).toEqual({ ...sent(first), expect: '100-continue' })
  })
})
