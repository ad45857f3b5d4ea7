-- Where and when one person was seen in the last 30 days, newest first. The parameter is the name: 'Ada Lovelace'.
WITH found AS (
  SELECT image_id, "timestamp", camera, filename, element_at(faces, n) AS face
  FROM processed
  CROSS JOIN UNNEST(sequence(1, greatest(1, cardinality(faces)))) AS place (n)
  WHERE day >= CAST(CAST(current_date - INTERVAL '30' DAY AS date) AS varchar)
)
SELECT
  from_iso8601_timestamp("timestamp") AS seen_at,
  camera,
  filename,
  image_id,
  face.similarity AS similarity,
  face.bounding_box AS bounding_box
FROM found
WHERE face.person = ?
ORDER BY "timestamp" DESC, image_id, similarity DESC
